#include "http/config/store_arguments.h"

#include "nginx/zone_segment.h"

namespace idempotency {

char *read_zone_size(ngx_conf_t *cf, off_t &field, const char *expected)
{
    field = parse_size(arguments(cf)[1]);

    return field >= kSmallestSegment ? ok() : reject_argument(cf, 1, expected);
}

char *read_number(ngx_conf_t *cf, ngx_int_t &field, ngx_int_t minimum, ngx_int_t maximum,
                  const char *expected)
{
    field = ngx_atoi(arguments(cf)[1].data, arguments(cf)[1].len);

    return field >= minimum && field <= maximum ? NGX_CONF_OK : reject_argument(cf, 1, expected);
}

char *read_time(ngx_conf_t *cf, ngx_uint_t argument, ngx_int_t &field)
{
    field = parse_time(&arguments(cf)[argument]);

    return field != NGX_ERROR ? NGX_CONF_OK : reject_argument(cf, argument, kValidTime);
}

char *read_text(ngx_conf_t *cf, ngx_str_t &field, const char *expected)
{
    field = arguments(cf)[1];
    return field.len > 0 ? NGX_CONF_OK : reject_argument(cf, 1, expected);
}

char *read_path(ngx_conf_t *cf, ngx_uint_t argument, ngx_str_t &field)
{
    field = arguments(cf)[argument];

    return field.len > 0 ? resolve_path(cf, field)
                         : reject_argument(cf, argument, "it must be the name of a file");
}

char *resolve_path(ngx_conf_t *cf, ngx_str_t &path)
{
    return ngx_conf_full_name(cf->cycle, &path, 1) == NGX_OK ? ok() : failed();
}

char *append_text(ngx_array_t &array, const ngx_str_t &text)
{
    auto *item = static_cast<ngx_str_t *>(ngx_array_push(&array));

    if (item == nullptr) {
        return failed();
    }

    *item = text;
    return NGX_CONF_OK;
}

}  // namespace idempotency
