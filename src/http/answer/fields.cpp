// nginx has the header fields of a response in two places: some as members of
// ngx_http_headers_out_t (Content-Type, Content-Length, Last-Modified), all others in the
// list `headers`.  A slot is a member of ngx_http_headers_out_t.

#include <cstddef>

#include "http/answer/fields.h"

#include "nginx/list.h"

namespace idempotency {

namespace {

// Hop-by-hop fields (RFC 9110, section 7.6.1), and fields that nginx sets itself.
constexpr const char *kNeverKept[] = {
    "Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding",
    "Upgrade",    "Date",       "Server",
};

// Fields of the list to which a slot points; other modules read them there.
struct Slot {
    const char *name;
    std::size_t offset;
};

// `X-Accel-Charset` of the application: nginx has removed it, and remembers its value.
constexpr char kCharset[] = "X-Accel-Charset";

constexpr Slot kSlots[] = {
    {"Location", offsetof(ngx_http_headers_out_t, location)},
    {"Last-Modified", offsetof(ngx_http_headers_out_t, last_modified)},
    {"Content-Encoding", offsetof(ngx_http_headers_out_t, content_encoding)},
    {"ETag", offsetof(ngx_http_headers_out_t, etag)},
    {"Expires", offsetof(ngx_http_headers_out_t, expires)},
    {"Accept-Ranges", offsetof(ngx_http_headers_out_t, accept_ranges)},
    {"Content-Range", offsetof(ngx_http_headers_out_t, content_range)},
    {"Refresh", offsetof(ngx_http_headers_out_t, refresh)},
    {"WWW-Authenticate", offsetof(ngx_http_headers_out_t, www_authenticate)},
};

ngx_table_elt_t *&slot_of(ngx_http_headers_out_t &out, const Slot &slot)
{
    return *reinterpret_cast<ngx_table_elt_t **>(reinterpret_cast<char *>(&out) + slot.offset);
}

bool is_in_slot(ngx_http_headers_out_t &out, const ngx_table_elt_t *field)
{
    for (const Slot &slot : kSlots) {
        if (slot_of(out, slot) == field) {
            return true;
        }
    }

    return false;
}

bool is_kept(const LocationConfig &conf, std::string_view name)
{
    for (const char *never_kept : kNeverKept) {
        if (equal_ignoring_case(name, never_kept)) {
            return false;
        }
    }

    if (conf.hidden_headers == nullptr) {
        return true;
    }

    auto *hidden = static_cast<ngx_str_t *>(conf.hidden_headers->elts);

    for (ngx_uint_t i = 0; i < conf.hidden_headers->nelts; i++) {
        if (equal_ignoring_case(name, view(hidden[i]))) {
            return false;
        }
    }

    return true;
}

// The fields that are in slots only, in the order in which nginx sends them, before the
// list.
class SlotFields {
public:
    SlotFields(ngx_pool_t *pool, const ngx_http_headers_out_t &out, const LocationConfig &conf)
        : pool_(pool), out_(out), conf_(conf)
    {}

    template <typename Visitor>
    void visit(Visitor &visitor)
    {
        const ngx_http_headers_out_t &out = out_;

        if (out.content_type.len > 0) {
            visit(visitor, "Content-Type", content_type(out));
        }

        if (out.content_length_n >= 0) {
            u_char *end = ngx_sprintf(buffer_, "%O", out.content_length_n);
            visit(visitor, "Content-Length", text_until(end));
        }

        if (out.last_modified == nullptr && out.last_modified_time != -1
            && sends_last_modified(out.status)) {
            u_char *end = ngx_http_time(buffer_, out.last_modified_time);
            visit(visitor, "Last-Modified", text_until(end));
        }

        // for the charset filter, which converts each replay anew
        if (out.override_charset != nullptr && out.override_charset->len > 0) {
            visit(visitor, kCharset, view(*out.override_charset));
        }
    }

private:
    template <typename Visitor>
    void visit(Visitor &visitor, const char *name, std::string_view value)
    {
        if (is_kept(conf_, name)) {
            visitor.add(Header{name, value, kHeaderFromSlot});
        }
    }

    // As ngx_http_header_filter: an error page from a file gets no Last-Modified.
    static bool sends_last_modified(ngx_uint_t status)
    {
        return status == NGX_HTTP_OK || status == NGX_HTTP_PARTIAL_CONTENT
               || status == NGX_HTTP_NOT_MODIFIED;
    }

    std::string_view text_until(u_char *end) const
    {
        return {reinterpret_cast<const char *>(buffer_), static_cast<std::size_t>(end - buffer_)};
    }

    // Appends the charset, as ngx_http_header_filter does.
    std::string_view content_type(const ngx_http_headers_out_t &out)
    {
        if (out.content_type_len != out.content_type.len || out.charset.len == 0) {
            return view(out.content_type);
        }

        std::size_t length = out.content_type.len + sizeof("; charset=") - 1 + out.charset.len;
        auto *joined = static_cast<u_char *>(ngx_pnalloc(pool_, length));

        if (joined == nullptr) {
            return view(out.content_type);
        }

        ngx_sprintf(joined, "%V; charset=%V", &out.content_type, &out.charset);
        return {reinterpret_cast<char *>(joined), length};
    }

    ngx_pool_t *pool_;
    const ngx_http_headers_out_t &out_;
    const LocationConfig &conf_;
    u_char buffer_[64];
};

// `extra_flags` are set for each field of the list.
template <typename Visitor>
void visit_list(ngx_http_headers_out_t &out, ngx_list_t &list, unsigned char extra_flags,
                const LocationConfig &conf, Visitor &visitor)
{
    for (ngx_table_elt_t &field : HeaderFields(list)) {
        // Lua and njs put Content-Length into the list too: the slot has it
        if (field.hash == 0 || !is_kept(conf, view(field.key))
            || equal_ignoring_case(view(field.key), "Content-Length"))
        {
            continue;
        }

        unsigned char flags = is_in_slot(out, &field) ? kHeaderFromSlot : 0;

        visitor.add(Header{view(field.key), view(field.value),
                           static_cast<unsigned char>(flags | extra_flags)});
    }
}

template <typename Visitor>
void visit_head(ngx_http_request_t *r, ngx_http_headers_out_t &head, const LocationConfig &conf,
                Visitor &visitor)
{
    SlotFields(r->pool, head, conf).visit(visitor);
    visit_list(head, head.headers, 0, conf, visitor);
}

// nginx adds them just before the last buffer (ngx_http_upstream_process_trailers).
template <typename Visitor>
void visit_trailers(ngx_http_request_t *r, ngx_http_headers_out_t &head, const LocationConfig &conf,
                    Visitor &visitor)
{
    visit_list(head, r->headers_out.trailers, kTrailer, conf, visitor);
}

template <typename Visitor>
void visit_fields(ngx_http_request_t *r, ngx_http_headers_out_t &head, const LocationConfig &conf,
                  Visitor &visitor)
{
    visit_head(r, head, conf, visitor);
    visit_trailers(r, head, conf, visitor);
}

// Separates type and charset as ngx_http_upstream_copy_content_type does.
void set_content_type(ngx_http_request_t *r, std::string_view value)
{
    ngx_http_headers_out_t &out = r->headers_out;
    constexpr std::string_view charset = "charset=";

    out.content_type = to_ngx(value);
    out.content_type_len = value.size();
    out.content_type_lowcase = nullptr;

    std::size_t name = 0;

    for (std::size_t at = value.find(';'); at != std::string_view::npos;
         at = value.find(';', name + 1)) {
        name = value.find_first_not_of(' ', at + 1);

        if (name == std::string_view::npos) {
            break;
        }

        // nginx does not look at this character again, even if it is a semicolon
        if (!equal_ignoring_case(value.substr(name, charset.size()), charset)) {
            continue;
        }

        std::string_view charset_value = value.substr(name + charset.size());

        if (!charset_value.empty() && charset_value.front() == '"') {
            charset_value.remove_prefix(1);
        }
        if (!charset_value.empty() && charset_value.back() == '"') {
            charset_value.remove_suffix(1);
        }

        out.content_type_len = at;
        out.charset = to_ngx(charset_value);
        break;
    }
}

ngx_table_elt_t *push_field(ngx_list_t &list, std::string_view name, std::string_view value)
{
    auto *field = static_cast<ngx_table_elt_t *>(ngx_list_push(&list));

    if (field == nullptr) {
        return nullptr;
    }

    ngx_memzero(field, sizeof(ngx_table_elt_t));
    field->hash = 1;
    field->key = to_ngx(name);
    field->value = to_ngx(value);
    return field;
}

// `Cache-Control` and `Link` have a list of their own in ngx_http_headers_out_t.
#if (nginx_version >= 1023000)

bool append_to_list(ngx_http_request_t *, ngx_table_elt_t *&list, ngx_table_elt_t *field)
{
    ngx_table_elt_t **end = &list;

    while (*end != nullptr) {
        end = &(*end)->next;
    }

    *end = field;
    return true;
}

#else

bool append_to_list(ngx_http_request_t *r, ngx_array_t &list, ngx_table_elt_t *field)
{
    if (list.elts == nullptr
        && ngx_array_init(&list, r->pool, 2, sizeof(ngx_table_elt_t *)) != NGX_OK) {
        return false;
    }

    auto **item = static_cast<ngx_table_elt_t **>(ngx_array_push(&list));

    if (item != nullptr) {
        *item = field;
    }

    return item != nullptr;
}

#endif

void fill_slot(ngx_http_request_t *r, ngx_table_elt_t *field)
{
    for (const Slot &slot : kSlots) {
        if (equal_ignoring_case(view(field->key), slot.name)) {
            slot_of(r->headers_out, slot) = field;
        }
    }

    if (r->headers_out.last_modified == field) {
        r->headers_out.last_modified_time =
            ngx_parse_http_time(field->value.data, field->value.len);
    }
}

bool restore_charset(ngx_http_request_t *r, std::string_view value)
{
    auto *charset = allocate<ngx_str_t>(r->pool);

    if (charset == nullptr) {
        return false;
    }

    *charset = to_ngx(value);
    r->headers_out.override_charset = charset;
    return true;
}

bool restore_field(ngx_http_request_t *r, const Header &header)
{
    bool from_slot = (header.flags & kHeaderFromSlot) != 0;

    if (from_slot && equal_ignoring_case(header.name, "Content-Type")) {
        set_content_type(r, header.value);
        return true;
    }

    if (from_slot && equal_ignoring_case(header.name, "Content-Length")) {
        ngx_str_t digits = to_ngx(header.value);

        r->headers_out.content_length_n = ngx_atoof(digits.data, digits.len);
        return r->headers_out.content_length_n != NGX_ERROR;
    }

    if (from_slot && equal_ignoring_case(header.name, kCharset)) {
        return restore_charset(r, header.value);
    }

    bool is_trailer = (header.flags & kTrailer) != 0;
    ngx_table_elt_t *field = push_field(
        is_trailer ? r->headers_out.trailers : r->headers_out.headers, header.name, header.value);

    if (field == nullptr) {
        return false;
    }

    if (is_trailer) {
        return true;
    }

    if (equal_ignoring_case(header.name, "Cache-Control")) {
        return append_to_list(r, r->headers_out.cache_control, field);
    }

    if (equal_ignoring_case(header.name, "Link")) {
        return append_to_list(r, r->headers_out.link, field);
    }

    if (from_slot) {
        fill_slot(r, field);
    }

    return true;
}

}  // namespace

ngx_table_elt_t *add_field(ngx_http_request_t *r, std::string_view name, std::string_view value)
{
    return push_field(r->headers_out.headers, name, value);
}

ngx_http_headers_out_t *copy_head(ngx_http_request_t *r)
{
    auto *copy =
        static_cast<ngx_http_headers_out_t *>(ngx_palloc(r->pool, sizeof(ngx_http_headers_out_t)));

    if (copy == nullptr) {
        return nullptr;
    }

    *copy = r->headers_out;

    if (ngx_list_init(&copy->headers, r->pool, 16, sizeof(ngx_table_elt_t)) != NGX_OK) {
        return nullptr;
    }

    for (ngx_table_elt_t &field : HeaderFields(r->headers_out.headers)) {
        auto *copied = static_cast<ngx_table_elt_t *>(ngx_list_push(&copy->headers));

        if (copied == nullptr) {
            return nullptr;
        }

        *copied = field;

        for (const Slot &slot : kSlots) {
            if (slot_of(r->headers_out, slot) == &field) {
                slot_of(*copy, slot) = copied;
            }
        }
    }

    return copy;
}

bool write_response_record(ngx_http_request_t *r, ngx_http_headers_out_t &head, Exchange &exchange,
                           const LocationConfig &conf, Millis lifetime, std::string_view hops)
{
    std::string_view status_line = view(head.status_line);

    ResponseSizer sizer(static_cast<unsigned>(head.status), status_line);
    visit_fields(r, head, conf, sizer);

    if (!sizer.fits()) {
        return false;
    }

    unsigned char *prefix = exchange.response().allocate_prefix(
        kRecordHeadSize + sizer.size() + size_of_hops(hops) + kScopeTagExtension);

    if (prefix == nullptr) {
        return false;
    }

    RecordWriter writer(prefix, exchange.record_head(State::kept, lifetime));

    writer.start_response(static_cast<std::uint16_t>(head.status), status_line);
    visit_fields(r, head, conf, writer);
    writer.add_hops(hops);
    writer.add_scope_tag(exchange.scope_tag());

    auto *piece = static_cast<std::string_view *>(exchange.response().body_pieces().elts);

    for (ngx_uint_t i = 0; i < exchange.response().body_pieces().nelts; i++) {
        writer.add_body(piece[i]);
    }

    writer.finish(exchange.id());
    exchange.response().set_prefix_size(writer.size());
    return true;
}

void visit_kept_fields(ngx_http_request_t *r, const LocationConfig &conf, FieldVisitor &visitor)
{
    visit_head(r, r->headers_out, conf, visitor);
}

void visit_kept_trailers(ngx_http_request_t *r, const LocationConfig &conf, FieldVisitor &visitor)
{
    visit_trailers(r, r->headers_out, conf, visitor);
}

ngx_int_t restore_response(ngx_http_request_t *r, const Record &record)
{
    HeaderCursor cursor(record.fields);
    Header header;

    r->headers_out.status = record.status;
    r->headers_out.status_line = to_ngx(record.status_line);

    while (cursor.next(header)) {
        if (!restore_field(r, header)) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}

}  // namespace idempotency
