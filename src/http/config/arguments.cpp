#include "http/config/arguments.h"

namespace idempotency {

char *reject_value(ngx_conf_t *cf, const ngx_str_t *directive, const ngx_str_t *value,
                   const char *expected)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid value \"%V\" in \"%V\": %s", value, directive,
                       expected);
    return failed();
}

char *reject_argument(ngx_conf_t *cf, ngx_uint_t argument, const char *expected)
{
    return reject_value(cf, &arguments(cf)[0], &arguments(cf)[argument], expected);
}

char *reject_second_page(ngx_conf_t *cf)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"idempotency_status\" and \"idempotency_admin\" are in one location: each "
                       "must have a location of its own");
    return failed();
}

ngx_http_complex_value_t *compile_value(ngx_conf_t *cf, ngx_str_t *text)
{
    auto *value = allocate<ngx_http_complex_value_t>(cf->pool);
    ngx_http_compile_complex_value_t compiler;

    ngx_memzero(&compiler, sizeof(compiler));
    compiler.cf = cf;
    compiler.value = text;
    compiler.complex_value = value;

    return value != nullptr && ngx_http_compile_complex_value(&compiler) == NGX_OK ? value
                                                                                   : nullptr;
}

ScopeSource *create_scope(ngx_pool_t *pool)
{
    auto *scope = allocate<ScopeSource>(pool);

    return scope != nullptr
                   && ngx_array_init(&scope->parts, pool, 2, sizeof(ngx_http_complex_value_t *))
                          == NGX_OK
               ? scope
               : nullptr;
}

bool add_scope_part(ScopeSource &scope, ngx_http_complex_value_t *part)
{
    if (part == nullptr) {
        return false;
    }

    auto **slot = static_cast<ngx_http_complex_value_t **>(ngx_array_push(&scope.parts));

    if (slot == nullptr) {
        return false;
    }

    *slot = part;
    return true;
}

off_t parse_size(const ngx_str_t &text)
{
    ngx_str_t copy = text;
    off_t size = text.len > 0 ? ngx_parse_offset(&copy) : NGX_ERROR;

    return static_cast<std::uint64_t>(size) <= NGX_MAX_SIZE_T_VALUE ? size : NGX_ERROR;
}

ngx_int_t parse_time(ngx_str_t *text)
{
    ngx_int_t time = ngx_parse_time(text, 0);

    return time > 0 ? time : NGX_ERROR;
}

}  // namespace idempotency
