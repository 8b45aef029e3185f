// The record of an observed response has the status, and for each kept field its name and the
// digest of its value.  Its body is the digest of the body.

#include "http/observe/observed_response.h"

#include <algorithm>
#include <new>

#include "http/exchange/accel_header.h"

namespace idempotency {

namespace {

constexpr std::size_t kFileReadSize = 32768;

// Fields that are compared with the body, or that the module removes from a response.
bool is_compared(const LocationConfig &conf, std::string_view name)
{
    return !equal_ignoring_case(name, "Content-Length") && !equal_ignoring_case(name, kAccelHeader)
           && (conf.replayed_header.len == 0
               || !equal_ignoring_case(name, view(conf.replayed_header)));
}

void append_name(Difference &difference, std::string_view name)
{
    bool is_first = difference.names_length == 0;
    std::size_t length = name.size() + (is_first ? 0 : 2);

    if (length > sizeof(difference.names) - difference.names_length) {
        return;
    }

    char *end = difference.names + difference.names_length;

    if (!is_first) {
        ngx_memcpy(end, ", ", 2);
        end += 2;
    }

    ngx_memcpy(end, name.data(), name.size());
    difference.names_length += length;
}

struct Items {
    const ObservedField *first;
    std::size_t count;

    // The next field with this name, at `i` or behind it; `count` if there is none.
    std::size_t next(std::string_view name, std::size_t i) const
    {
        while (i < count && !equal_ignoring_case(first[i].name, name)) {
            i++;
        }

        return i;
    }
};

bool has_same_values(std::string_view name, const Items &a, const Items &b)
{
    std::size_t i = a.next(name, 0);
    std::size_t j = b.next(name, 0);

    while (i < a.count && j < b.count && a.first[i].value() == b.first[j].value()) {
        i = a.next(name, i + 1);
        j = b.next(name, j + 1);
    }

    return i == a.count && j == b.count;
}

// `only_missing`: the names that are in `b` too have been compared already.
void compare_fields(const Items &a, const Items &b, bool only_missing, Difference &difference)
{
    for (std::size_t i = 0; i < a.count; i++) {
        std::string_view name = a.first[i].name;

        if (a.next(name, 0) < i || (only_missing && b.next(name, 0) < b.count)) {
            continue;
        }

        if (!has_same_values(name, a, b)) {
            difference.fields = true;
            append_name(difference, name);
        }
    }
}

}  // namespace

ObservedResponse::ObservedResponse(ngx_pool_t *pool, const EVP_MD *method)
    : pool_(pool), sha_(method)
{}

void ObservedResponse::read_head(ngx_http_request_t *r, const LocationConfig &conf)
{
    conf_ = &conf;
    status_ = static_cast<unsigned>(r->headers_out.status);

    if (ngx_array_init(&fields_, pool_, 16, sizeof(ObservedField)) != NGX_OK) {
        has_failed_ = true;
        return;
    }

    visit_kept_fields(r, conf, *this);

    if (!sha_.restart()) {
        has_failed_ = true;
    }
}

void ObservedResponse::add(const Header &header)
{
    char hex[kHexLength];
    Digest digest;

    if (has_failed_ || !is_compared(*conf_, header.name)) {
        return;
    }

    auto *field = static_cast<ObservedField *>(ngx_array_push(&fields_));
    auto *name =
        static_cast<u_char *>(ngx_pnalloc(pool_, std::max<std::size_t>(header.name.size(), 1)));

    if (field == nullptr || name == nullptr || !sha_.restart() || !sha_.update(header.value)
        || !sha_.finish(digest))
    {
        has_failed_ = true;
        return;
    }

    ngx_memcpy(name, header.name.data(), header.name.size());
    write_hex(digest, hex);
    ngx_memcpy(field->digest, hex, sizeof(field->digest));
    field->flags = header.flags;
    new (&field->name) std::string_view(reinterpret_cast<char *>(name), header.name.size());
}

void ObservedResponse::read_body(ngx_buf_t *b, std::size_t max_body)
{
    if (ngx_buf_in_memory(b)) {
        digest_body(
            {reinterpret_cast<const char *>(b->pos), static_cast<std::size_t>(b->last - b->pos)},
            max_body);

    } else if (b->in_file) {
        digest_file(b, max_body);
    }
}

void ObservedResponse::digest_body(std::string_view bytes, std::size_t max_body)
{
    body_size_ += bytes.size();
    is_too_large_ |= body_size_ > max_body;

    if (!is_too_large_ && !has_failed_ && !sha_.update(bytes)) {
        has_failed_ = true;
    }
}

// As the copy filter reads it where `sendfile` is off.  At most `idempotency_max_body`.
void ObservedResponse::digest_file(ngx_buf_t *b, std::size_t max_body)
{
    char buffer[kFileReadSize];
    off_t offset = b->file_pos;

    if (is_too_large_ || has_failed_ || b->file->directio
        || body_size_ + static_cast<std::uint64_t>(b->file_last - b->file_pos) > max_body)
    {
        has_failed_ |= b->file->directio;
        body_size_ += static_cast<std::uint64_t>(b->file_last - b->file_pos);
        is_too_large_ |= body_size_ > max_body;
        return;
    }

    while (offset < b->file_last) {
        ssize_t n =
            pread(b->file->fd, buffer,
                  ngx_min(sizeof(buffer), static_cast<std::size_t>(b->file_last - offset)), offset);

        if (n <= 0) {
            has_failed_ = true;
            return;
        }

        digest_body({buffer, static_cast<std::size_t>(n)}, max_body);
        offset += n;
    }
}

void ObservedResponse::read_end(ngx_http_request_t *r, const LocationConfig &conf)
{
    if (!has_failed_ && !is_too_large_ && !sha_.finish(body_)) {
        has_failed_ = true;
    }

    visit_kept_trailers(r, conf, *this);
}

bool ObservedResponse::write_record(const RecordHead &head, const KeyId &id, Pieces &record)
{
    return write(head, id, body_.view(), record);
}

bool ObservedResponse::write_unseen(const RecordHead &head, const KeyId &id, Pieces &record)
{
    fields_.nelts = 0;
    status_ = NGX_HTTP_OK;
    return write(head, id, {}, record);
}

bool ObservedResponse::write(const RecordHead &head, const KeyId &id, std::string_view body,
                             Pieces &record)
{
    ResponseSizer sizer(status_, {});

    for (ngx_uint_t i = 0; i < fields_.nelts; i++) {
        sizer.add(Header{fields()[i].name, fields()[i].value(), fields()[i].flags});
    }

    if (!sizer.fits()) {
        return false;
    }

    auto *out = static_cast<unsigned char *>(ngx_pnalloc(pool_, kRecordHeadSize + sizer.size()));

    if (out == nullptr) {
        return false;
    }

    RecordWriter writer(out, head);

    writer.start_response(static_cast<std::uint16_t>(status_), {});

    for (ngx_uint_t i = 0; i < fields_.nelts; i++) {
        writer.add(Header{fields()[i].name, fields()[i].value(), fields()[i].flags});
    }

    writer.add_body(body);
    writer.finish(id);
    pieces_[0] = {reinterpret_cast<char *>(out), writer.size()};
    pieces_[1] = body;
    record = {pieces_, body.empty() ? std::size_t(1) : std::size_t(2)};
    return true;
}

bool ObservedResponse::compare(const Record &kept, Difference &difference) const
{
    auto *field = allocate<ObservedField>(pool_, ngx_max(kept.header_count, 1));
    HeaderCursor cursor(kept.fields);
    Header header;
    std::size_t count = 0;

    if (field == nullptr || has_failed_) {
        return false;
    }

    while (count < kept.header_count && cursor.next(header)) {
        field[count].name = header.name;
        ngx_memcpy(field[count].digest, header.value.data(),
                   ngx_min(header.value.size(), sizeof(field->digest)));
        count++;
    }

    Items before{field, count};
    Items now{fields(), fields_.nelts};

    difference.status = kept.status != status_;
    difference.body = is_too_large_ || kept.body != body_.view();
    compare_fields(before, now, false, difference);
    compare_fields(now, before, true, difference);
    return true;
}

}  // namespace idempotency
