// The fields of an answer: from nginx's slots and list into a record, and back.

#include <cstddef>

#include "http/answer/fields.h"

#include "http/exchange/word_header.h"

namespace idempotency {

namespace {

// Of this exchange, not of the answer: RFC 9110, section 7.6.1; and what nginx
// says of itself.
constexpr const char *kNeverKept[] = {
    "Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding",
    "Upgrade",    "Date",       "Server",
};

// Fields in the list to which other modules have a pointer.
struct Slot {
    const char *name;
    std::size_t offset;
};

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

ngx_table_elt_t *&slot_of(ngx_http_request_t *r, const Slot &slot)
{
    return *reinterpret_cast<ngx_table_elt_t **>(reinterpret_cast<char *>(&r->headers_out)
                                                 + slot.offset);
}

bool is_in_slot(ngx_http_request_t *r, const ngx_table_elt_t *field)
{
    for (const Slot &slot : kSlots) {
        if (slot_of(r, slot) == field) {
            return true;
        }
    }

    return false;
}

bool is_kept(const LocationConfig &conf, std::string_view name)
{
    for (const char *other : kNeverKept) {
        if (equal_ignoring_case(name, other)) {
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

// The fields that nginx makes of its slots, in the order in which it sends
// them, ahead of the list.
class SlotFields {
public:
    SlotFields(ngx_http_request_t *r, const LocationConfig &conf) : r_(r), conf_(conf) {}

    template <typename Visitor>
    void visit(Visitor &visitor)
    {
        ngx_http_headers_out_t &out = r_->headers_out;

        if (out.content_type.len > 0) {
            visit(visitor, "Content-Type", content_type(out));
        }

        if (out.content_length_n >= 0) {
            u_char *end = ngx_sprintf(room_, "%O", out.content_length_n);
            visit(visitor, "Content-Length", written(end));
        }

        if (out.last_modified == nullptr && out.last_modified_time != -1
            && tells_last_modified(out.status)) {
            u_char *end = ngx_http_time(room_, out.last_modified_time);
            visit(visitor, "Last-Modified", written(end));
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

    // As ngx_http_header_filter: an error page of a file has no date of its own.
    static bool tells_last_modified(ngx_uint_t status)
    {
        return status == NGX_HTTP_OK || status == NGX_HTTP_PARTIAL_CONTENT
               || status == NGX_HTTP_NOT_MODIFIED;
    }

    std::string_view written(u_char *end) const
    {
        return {reinterpret_cast<const char *>(room_), static_cast<std::size_t>(end - room_)};
    }

    // A charset that stands beside the type is joined with it, as
    // ngx_http_header_filter would.
    std::string_view content_type(const ngx_http_headers_out_t &out)
    {
        if (out.content_type_len != out.content_type.len || out.charset.len == 0) {
            return view(out.content_type);
        }

        std::size_t length = out.content_type.len + sizeof("; charset=") - 1 + out.charset.len;
        auto *joined = static_cast<u_char *>(ngx_pnalloc(r_->pool, length));

        if (joined == nullptr) {
            return view(out.content_type);
        }

        ngx_sprintf(joined, "%V; charset=%V", &out.content_type, &out.charset);
        return {reinterpret_cast<char *>(joined), length};
    }

    ngx_http_request_t *r_;
    const LocationConfig &conf_;
    u_char room_[64];
};

// `more`: flags for each field of the list.
template <typename Visitor>
void visit_list(ngx_http_request_t *r, ngx_list_t &list, unsigned char more,
                const LocationConfig &conf, Visitor &visitor)
{
    for (ngx_list_part_t *part = &list.part; part != nullptr; part = part->next) {
        auto *field = static_cast<ngx_table_elt_t *>(part->elts);

        for (ngx_uint_t i = 0; i < part->nelts; i++) {
            if (field[i].hash == 0 || !is_kept(conf, view(field[i].key))) {
                continue;
            }

            unsigned char flags = is_in_slot(r, &field[i]) ? kHeaderFromSlot : 0;

            visitor.add(Header{view(field[i].key), view(field[i].value),
                               static_cast<unsigned char>(flags | more)});
        }
    }
}

template <typename Visitor>
void visit_fields(ngx_http_request_t *r, const LocationConfig &conf, Visitor &visitor)
{
    SlotFields(r, conf).visit(visitor);
    visit_list(r, r->headers_out.headers, 0, conf, visitor);

    // they are there just before the last buffer (ngx_http_upstream_process_trailers)
    visit_list(r, r->headers_out.trailers, kTrailer, conf, visitor);
}

// As ngx_http_upstream_copy_content_type takes a type and its charset apart.
void set_content_type(ngx_http_request_t *r, std::string_view value)
{
    ngx_http_headers_out_t &out = r->headers_out;
    constexpr std::string_view charset = "charset=";

    ngx_str_t text;
    text.len = value.size();
    text.data = reinterpret_cast<u_char *>(const_cast<char *>(value.data()));

    out.content_type = text;
    out.content_type_len = text.len;
    out.content_type_lowcase = nullptr;

    for (std::size_t at = value.find(';'); at != std::string_view::npos;
         at = value.find(';', at + 1)) {
        std::size_t name = value.find_first_not_of(' ', at + 1);

        if (name == std::string_view::npos
            || !equal_ignoring_case(value.substr(name, charset.size()), charset))
        {
            continue;
        }

        std::string_view set = value.substr(name + charset.size());

        if (!set.empty() && set.front() == '"') {
            set.remove_prefix(1);
        }
        if (!set.empty() && set.back() == '"') {
            set.remove_suffix(1);
        }

        out.content_type_len = at;
        out.charset.len = set.size();
        out.charset.data = reinterpret_cast<u_char *>(const_cast<char *>(set.data()));
        break;
    }
}

ngx_str_t text_of(std::string_view bytes)
{
    ngx_str_t text;

    text.len = bytes.size();
    text.data = reinterpret_cast<u_char *>(const_cast<char *>(bytes.data()));
    return text;
}

ngx_table_elt_t *push_field(ngx_list_t &list, std::string_view name, std::string_view value)
{
    auto *field = static_cast<ngx_table_elt_t *>(ngx_list_push(&list));

    if (field == nullptr) {
        return nullptr;
    }

    ngx_memzero(field, sizeof(ngx_table_elt_t));
    field->hash = 1;
    field->key = text_of(name);
    field->value = text_of(value);
    return field;
}

// `Cache-Control` and `Link`: lists to which nginx's modules look.
#if (nginx_version >= 1023000)

bool append(ngx_http_request_t *, ngx_table_elt_t *&list, ngx_table_elt_t *field)
{
    ngx_table_elt_t **end = &list;

    while (*end != nullptr) {
        end = &(*end)->next;
    }

    *end = field;
    return true;
}

#else

bool append(ngx_http_request_t *r, ngx_array_t &list, ngx_table_elt_t *field)
{
    if (list.elts == nullptr
        && ngx_array_init(&list, r->pool, 2, sizeof(ngx_table_elt_t *)) != NGX_OK) {
        return false;
    }

    auto **place = static_cast<ngx_table_elt_t **>(ngx_array_push(&list));

    if (place != nullptr) {
        *place = field;
    }

    return place != nullptr;
}

#endif

void fill_slot(ngx_http_request_t *r, ngx_table_elt_t *field)
{
    for (const Slot &slot : kSlots) {
        if (equal_ignoring_case(view(field->key), slot.name)) {
            slot_of(r, slot) = field;
        }
    }

    if (r->headers_out.last_modified == field) {
        r->headers_out.last_modified_time =
            ngx_parse_http_time(field->value.data, field->value.len);
    }
}

bool restore_field(ngx_http_request_t *r, const Header &header)
{
    bool from_slot = (header.flags & kHeaderFromSlot) != 0;

    if (from_slot && equal_ignoring_case(header.name, "Content-Type")) {
        set_content_type(r, header.value);
        return true;
    }

    if (from_slot && equal_ignoring_case(header.name, "Content-Length")) {
        ngx_str_t digits = text_of(header.value);

        r->headers_out.content_length_n = ngx_atoof(digits.data, digits.len);
        return r->headers_out.content_length_n != NGX_ERROR;
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
        return append(r, r->headers_out.cache_control, field);
    }

    if (equal_ignoring_case(header.name, "Link")) {
        return append(r, r->headers_out.link, field);
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

// False where there is no memory, or where a record can't hold the fields.
bool write_response_record(ngx_http_request_t *r, Exchange &exchange, const LocationConfig &conf,
                           Millis lifetime)
{
    std::string_view line = view(r->headers_out.status_line);

    FieldSizer sizer(line);
    visit_fields(r, conf, sizer);

    if (!sizer.fits()) {
        return false;
    }

    unsigned char *room = exchange.allocate_head(kRecordHeadSize + sizer.size());

    if (room == nullptr) {
        return false;
    }

    RecordWriter writer(room, exchange.head(State::kept, lifetime));

    writer.start_result(static_cast<std::uint16_t>(r->headers_out.status), line);
    visit_fields(r, conf, writer);

    auto *piece = static_cast<std::string_view *>(exchange.pieces().elts);

    for (ngx_uint_t i = 0; i < exchange.pieces().nelts; i++) {
        writer.add_body(piece[i]);
    }

    writer.finish(exchange.id());
    exchange.set_head_size(writer.size());
    return true;
}

ngx_int_t restore_response(ngx_http_request_t *r, const Record &record)
{
    HeaderCursor cursor(record.fields);
    Header header;

    r->headers_out.status = record.status;
    r->headers_out.status_line = text_of(record.status_line);

    while (cursor.next(header)) {
        if (!restore_field(r, header)) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}

// Takes out what is between the application and this module: its word, and a
// claim to be a replay, which is nobody's but ours to make.
void take_word(ngx_http_request_t *r, const LocationConfig &conf, Word &word)
{
    for (ngx_list_part_t *part = &r->headers_out.headers.part; part != nullptr; part = part->next) {
        auto *field = static_cast<ngx_table_elt_t *>(part->elts);

        for (ngx_uint_t i = 0; i < part->nelts; i++) {
            if (field[i].hash == 0) {
                continue;
            }

            if (is_word_header(field[i])) {
                read_word(view(field[i].value), word);
                field[i].hash = 0;

            } else if (conf.replayed_header.len > 0
                       && equal_ignoring_case(view(field[i].key), view(conf.replayed_header)))
            {
                field[i].hash = 0;
            }
        }
    }
}

}  // namespace idempotency
