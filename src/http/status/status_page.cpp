#include "http/status/status_page.h"

#include <new>

#include "http/answer/fields.h"
#include "http/config/arguments.h"
#include "http/exchange/maintenance.h"
#include "http/status/page_data.h"
#include "http/status/status_format.h"
#include "nginx/list.h"

namespace idempotency {

namespace {

struct ContentType {
    const char *value;
    std::size_t length_without_charset;
};

constexpr ContentType kContentTypes[] = {
    {"application/json", sizeof("application/json") - 1},
    {"text/plain; version=0.0.4; charset=utf-8", sizeof("text/plain; version=0.0.4") - 1},
    {"text/html; charset=utf-8", sizeof("text/html") - 1},
};

// The current metrics of all stores, in the pool of the request.  Null if there is no memory.
StoreStatus *read_stores(ngx_http_request_t *r, const ngx_array_t &slots)
{
    auto *stores = allocate<StoreStatus>(r->pool, slots.nelts + 1);

    for (ngx_uint_t i = 0; stores != nullptr && i < slots.nelts; i++) {
        StoreSlot &slot = *static_cast<StoreSlot **>(slots.elts)[i];

        new (&stores[i]) StoreStatus;
        stores[i].name = view(slot.name);
        slot.maintenance->publish();
        stores[i].now = slot.store->figures();
        stores[i].metrics.used_memory = stores[i].now.memory.used;
        slot.counters->read(stores[i].metrics,
                            stores[i].now.memory.size - stores[i].now.memory.used);
    }

    return stores;
}

ngx_buf_t *write_page(ngx_http_request_t *r, StatusFormat format)
{
    const ngx_array_t &slots = main_config(r)->stores;
    StoreStatus *stores = read_stores(r, slots);

    if (stores == nullptr) {
        return nullptr;
    }

    ngx_time_t *now = ngx_timeofday();
    StatusPage page{stores, slots.nelts, static_cast<std::uint64_t>(now->sec) * 1000 + now->msec,
                    view(const_cast<ngx_cycle_t *>(ngx_cycle)->hostname), NGINX_VERSION};
    std::size_t size = format_status(format, page, nullptr, 0);
    ngx_buf_t *b = ngx_create_temp_buf(r->pool, size);

    if (b != nullptr) {
        b->last += format_status(format, page, reinterpret_cast<char *>(b->pos), size);
        b->last_buf = 1;
        b->memory = 1;
        b->temporary = 0;
    }

    return b;
}

// `?format=`, else the directive, else `Accept`.  False if there is no such format.
bool negotiate(ngx_http_request_t *r, StatusFormat &format)
{
    ngx_str_t argument;

    if (ngx_http_arg(r, reinterpret_cast<u_char *>(const_cast<char *>("format")), 6, &argument)
        == NGX_OK)
    {
        return parse_format(view(argument), format);
    }

    if (format != StatusFormat::negotiated) {
        return true;
    }

    FormatChoice choice;

    for (ngx_table_elt_t &field : HeaderFields(r->headers_in.headers)) {
        if (has_name(field, "accept")) {
            prefer(view(field.value), choice);
        }
    }

    format = choice.format;
    return true;
}

void set_content_type(ngx_http_request_t *r, const ContentType &type)
{
    ngx_str_t &field = r->headers_out.content_type;

    field.data = reinterpret_cast<u_char *>(const_cast<char *>(type.value));
    field.len = ngx_strlen(type.value);
    r->headers_out.content_type_len = type.length_without_charset;
    r->headers_out.content_type_lowcase = nullptr;
}

// The page runs only its own script, and loads only its own JSON.
bool add_page_fields(ngx_http_request_t *r)
{
    return add_field(r, "Content-Security-Policy", kPagePolicy) != nullptr
           && add_field(r, "X-Content-Type-Options", "nosniff") != nullptr
           && add_field(r, "Referrer-Policy", "no-referrer") != nullptr;
}

// nginx's ngx_http_handler_pt
ngx_int_t send_status_page(ngx_http_request_t *r)
{
    if ((r->method & (NGX_HTTP_GET | NGX_HTTP_HEAD)) == 0) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    ngx_int_t rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    auto format = static_cast<StatusFormat>(location_config(r)->status_format);

    bool is_negotiated = format == StatusFormat::negotiated;

    // a page for people reads the JSON of its own location
    if ((is_negotiated || format == StatusFormat::html) && !negotiate(r, format)) {
        return NGX_HTTP_BAD_REQUEST;
    }

    if (is_negotiated && add_field(r, "Vary", "Accept") == nullptr) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_chain_t out{write_page(r, format), nullptr};

    if (out.buf == nullptr || add_field(r, "Cache-Control", "no-store") == nullptr) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (format == StatusFormat::html && !add_page_fields(r)) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = out.buf->last - out.buf->pos;
    set_content_type(r, kContentTypes[static_cast<std::size_t>(format)]);
    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_output_filter(r, &out);
}

constexpr Choice kStatusFormats[] = {
    {"json", static_cast<ngx_uint_t>(StatusFormat::json)},
    {"prometheus", static_cast<ngx_uint_t>(StatusFormat::prometheus)},
    {"html", static_cast<ngx_uint_t>(StatusFormat::html)},
};

}  // namespace

char *set_status_page(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    auto *core = static_cast<ngx_http_core_loc_conf_t *>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));

    if (conf->page != nullptr && conf->page != send_status_page) {
        return reject_second_page(cf);
    }

    core->handler = send_status_page;
    conf->page = send_status_page;

    if (cf->args->nelts == 1) {
        if (conf->status_format != NGX_CONF_UNSET_UINT) {
            return duplicate();
        }

        conf->status_format = static_cast<ngx_uint_t>(StatusFormat::negotiated);
        return ok();
    }

    return set_choice(cf, kStatusFormats, conf->status_format,
                      "it must be \"json\", \"prometheus\" or \"html\"");
}

}  // namespace idempotency
