#include "http/admin/admin_page.h"

#include "http/admin/erasure.h"
#include "http/admin/key_call.h"
#include "http/answer/problem.h"
#include "http/config/arguments.h"
#include "nginx/erasure_segment.h"

namespace idempotency {

namespace {

// nginx's ngx_http_handler_pt
ngx_int_t handle_admin_request(ngx_http_request_t *r)
{
    AdminQuestion question;

    // no access check has seen a subrequest
    if (r != r->main || r->post_action) {
        return NGX_HTTP_FORBIDDEN;
    }

    ngx_int_t rc = discard_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    if (const AdminProblem *problem = read_admin_question(r, question)) {
        return send_admin_problem(r, *problem);
    }

    switch (question.kind) {
    case AdminQuestion::Kind::erase:
        return start_erasure(r, question);
    case AdminQuestion::Kind::show_erasure:
        return show_erasure(r, question);
    default:
        return start_key_call(r, question);
    }
}

// The configuration of a module in a location, or null.
void *config_of(ngx_conf_t *cf, void **location, const char *module)
{
    ngx_module_t *found = find_module(cf->cycle, module);

    return found != nullptr ? location[found->ctx_index] : nullptr;
}

// Whether there is a `deny`, or an `allow all`, which says that everyone is meant.  Another `allow`
// without a `deny` restricts nothing.  The lists of rules are the members of
// ngx_http_access_loc_conf_t, IPv4 first.  A rule ends with its member `deny`; one of IPv4 begins
// with its mask, which is 0 for `all` and for 0.0.0.0/0.
bool has_access_rules(const void *config)
{
    constexpr std::size_t lists = 1
#if (NGX_HAVE_INET6)
                                  + 1
#endif
#if (NGX_HAVE_UNIX_DOMAIN)
                                  + 1
#endif
        ;
    auto *rules = static_cast<ngx_array_t *const *>(config);

    for (std::size_t i = 0; config != nullptr && i < lists; i++) {
        for (ngx_uint_t n = 0; rules[i] != nullptr && n < rules[i]->nelts; n++) {
            auto *rule = static_cast<const u_char *>(rules[i]->elts) + n * rules[i]->size;
            auto *deny = rule + rules[i]->size - sizeof(ngx_uint_t);
            bool is_for_all = i == 0 && *reinterpret_cast<const in_addr_t *>(rule) == 0;

            if (is_for_all || *reinterpret_cast<const ngx_uint_t *>(deny) != 0) {
                return true;
            }
        }
    }

    return false;
}

// `auth_basic`: the realm is the first member of ngx_http_auth_basic_loc_conf_t.
bool has_auth_basic(const void *config)
{
    auto *realm =
        config != nullptr ? *static_cast<ngx_http_complex_value_t *const *>(config) : nullptr;

    return realm != nullptr && realm != NGX_CONF_UNSET_PTR && view(realm->value) != "off";
}

// `auth_request`: the URI is the first member of ngx_http_auth_request_conf_t.
bool has_auth_request(const void *config)
{
    return config != nullptr && static_cast<const ngx_str_t *>(config)->len > 0;
}

}  // namespace

char *set_admin_page(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    auto *core = static_cast<ngx_http_core_loc_conf_t *>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));
    auto *main = static_cast<MainConfig *>(
        ngx_http_conf_get_module_main_conf(cf, ngx_http_idempotency_module));

    if (conf->page != nullptr) {
        return conf->page == handle_admin_request ? duplicate() : reject_second_page(cf);
    }

    if (cf->args->nelts == 2 && !equals(arguments(cf)[1], "guarded")) {
        return reject_argument(cf, 1, "it must be \"guarded\", or no parameter");
    }

    core->handler = handle_admin_request;
    conf->page = handle_admin_request;

    if (main->erasures == nullptr) {
        main->erasures = ErasureSegment::create(cf, &ngx_http_idempotency_module);
    }

    auto *page = static_cast<AdminPage *>(ngx_array_push(&main->admin_pages));

    if (page == nullptr || main->erasures == nullptr) {
        return failed();
    }

    page->location = static_cast<ngx_http_conf_ctx_t *>(cf->ctx)->loc_conf;
    page->is_guarded = cf->args->nelts == 2;
    page->file = cf->conf_file->file.name;
    page->line = cf->conf_file->line;
    return ok();
}

bool check_admin_pages(ngx_conf_t *cf, const MainConfig &main)
{
    auto *page = static_cast<AdminPage *>(main.admin_pages.elts);

    for (ngx_uint_t i = 0; i < main.admin_pages.nelts; i++) {
        void **location = page[i].location;

        if (page[i].is_guarded
            || has_access_rules(config_of(cf, location, "ngx_http_access_module"))
            || has_auth_basic(config_of(cf, location, "ngx_http_auth_basic_module"))
            || has_auth_request(config_of(cf, location, "ngx_http_auth_request_module")))
        {
            continue;
        }

        ngx_log_error(
            NGX_LOG_EMERG, cf->log, 0,
            "\"idempotency_admin\" in %V:%ui is open to everyone: restrict its location "
            "with \"allow\" and \"deny all\", \"auth_basic\" or \"auth_request\", or write "
            "\"idempotency_admin guarded\" if something else restricts it",
            &page[i].file, page[i].line);
        return false;
    }

    return true;
}

}  // namespace idempotency
