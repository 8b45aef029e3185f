#include "http/config/error_pages.h"

#include "http/config/config.h"

namespace idempotency {

namespace {

struct Code {
    ngx_http_script_len_code_pt code;
    uintptr_t status;
    uintptr_t is_named_location;
};

// nginx's ngx_http_script_len_code_pt
size_t on_evaluation(ngx_http_script_engine_t *e)
{
    auto *code = reinterpret_cast<Code *>(e->ip);

    e->ip += sizeof(Code);
    main_config(e->request)->on_error_page(e->request, code->status, code->is_named_location != 0);
    return 0;
}

// As ngx_http_compile_complex_value, with the code in front, also for a text without
// variables.
bool compile(ngx_conf_t *cf, ngx_http_complex_value_t &value, ngx_int_t status)
{
    ngx_http_script_compile_t sc;
    ngx_array_t *flushes = nullptr;
    ngx_array_t *values = nullptr;
    ngx_array_t *lengths = ngx_array_create(cf->pool, 4 * sizeof(Code), 1);

    if (lengths == nullptr) {
        return false;
    }

    auto *code = static_cast<Code *>(ngx_array_push_n(lengths, sizeof(Code)));

    if (code == nullptr) {
        return false;
    }

    code->code = on_evaluation;
    code->status = static_cast<uintptr_t>(status);
    code->is_named_location = value.value.len > 0 && value.value.data[0] == '@' ? 1 : 0;

    ngx_memzero(&sc, sizeof(sc));
    sc.cf = cf;
    sc.source = &value.value;
    sc.flushes = &flushes;
    sc.lengths = &lengths;
    sc.values = &values;
    sc.variables = ngx_http_script_variables_count(&value.value);
    sc.complete_lengths = 1;
    sc.complete_values = 1;

    if (ngx_http_script_compile(&sc) != NGX_OK) {
        return false;
    }

    auto *end = static_cast<ngx_uint_t *>(ngx_array_push(flushes));

    if (end == nullptr) {
        return false;
    }

    *end = static_cast<ngx_uint_t>(-1);
    value.flushes = static_cast<ngx_uint_t *>(flushes->elts);
    value.lengths = lengths->elts;
    value.values = values->elts;
    return true;
}

// nginx keeps the arguments of a URI without variables apart; a compiled value has them in
// its text (ngx_http_send_error_page).
bool join_arguments(ngx_conf_t *cf, ngx_http_err_page_t &page)
{
    if (page.args.len == 0) {
        return true;
    }

    size_t length = page.value.value.len + 1 + page.args.len;
    auto *text = static_cast<u_char *>(ngx_pnalloc(cf->pool, length));

    if (text == nullptr) {
        return false;
    }

    ngx_sprintf(text, "%V?%V", &page.value.value, &page.args);
    page.value.value = {length, text};
    return true;
}

}  // namespace

bool collect_error_pages(ngx_conf_t *cf, ngx_array_t &lists)
{
    auto *core = static_cast<ngx_http_core_loc_conf_t *>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));
    auto **known = static_cast<ngx_array_t **>(lists.elts);

    if (core->error_pages == nullptr) {
        return true;
    }

    // locations inherit the list itself
    for (ngx_uint_t i = 0; i < lists.nelts; i++) {
        if (known[i] == core->error_pages) {
            return true;
        }
    }

    auto **list = static_cast<ngx_array_t **>(ngx_array_push(&lists));

    if (list == nullptr) {
        return false;
    }

    *list = core->error_pages;
    return true;
}

bool watch_error_pages(ngx_conf_t *cf, const ngx_array_t &lists)
{
    auto **list = static_cast<ngx_array_t **>(lists.elts);

    for (ngx_uint_t i = 0; i < lists.nelts; i++) {
        auto *page = static_cast<ngx_http_err_page_t *>(list[i]->elts);

        for (ngx_uint_t n = 0; n < list[i]->nelts; n++) {
            if (!join_arguments(cf, page[n]) || !compile(cf, page[n].value, page[n].status)) {
                return false;
            }
        }
    }

    return true;
}

}  // namespace idempotency
