#include "http/arguments.h"

namespace idempotency {

char *refuse_value(ngx_conf_t *cf, const ngx_str_t *directive, const ngx_str_t *value,
                   const char *expected)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid value \"%V\" in \"%V\": %s", value,
                       directive, expected);
    return failed();
}

char *refuse(ngx_conf_t *cf, ngx_uint_t argument, const char *expected)
{
    return refuse_value(cf, &arguments(cf)[0], &arguments(cf)[argument], expected);
}

ngx_int_t parse_time(ngx_str_t *text)
{
    ngx_int_t time = ngx_parse_time(text, 0);

    return time > 0 ? time : NGX_ERROR;
}

}  // namespace idempotency
