#include "http/admin/text.h"

namespace idempotency {

// Null if there is no memory.
u_char *JsonText::reserve(std::size_t size)
{
    if (!failed_ && size_ + size > capacity_) {
        std::size_t capacity = ngx_max(2 * capacity_, size_ + size + 512);
        auto *data = static_cast<u_char *>(ngx_pnalloc(pool_, capacity));

        if (data != nullptr && size_ > 0) {
            ngx_memcpy(data, data_, size_);
        }

        failed_ = data == nullptr;
        data_ = data;
        capacity_ = capacity;
    }

    return failed_ ? nullptr : data_ + size_;
}

void JsonText::put(std::string_view text)
{
    u_char *out = reserve(text.size());

    if (out != nullptr) {
        ngx_memcpy(out, text.data(), text.size());
        size_ += text.size();
    }
}

void JsonText::put_escaped(std::string_view text, bool is_utf8)
{
    // the longest escape of a byte
    u_char *out = reserve(6 * text.size() + 2);

    if (out == nullptr) {
        return;
    }

    u_char *end = out;

    *end++ = '"';

    for (char c : text) {
        auto byte = static_cast<u_char>(c);

        if (byte == '"' || byte == '\\') {
            *end++ = '\\';
            *end++ = byte;
        } else if ((byte >= 0x20 && byte < 0x7f) || (is_utf8 && byte >= 0x80)) {
            *end++ = byte;
        } else {
            end = ngx_sprintf(end, "\\u%04xd", static_cast<unsigned>(byte));
        }
    }

    *end++ = '"';
    size_ += static_cast<std::size_t>(end - out);
}

void JsonText::put_base64(std::string_view bytes)
{
    u_char *out = reserve(ngx_base64_encoded_length(bytes.size()) + 2);

    if (out == nullptr) {
        return;
    }

    ngx_str_t from = to_ngx(bytes);
    ngx_str_t to;

    out[0] = '"';
    to.data = out + 1;
    ngx_encode_base64(&to, &from);
    out[1 + to.len] = '"';
    size_ += to.len + 2;
}

void JsonText::put_number(std::uint64_t number)
{
    u_char *out = reserve(NGX_INT64_LEN);

    if (out != nullptr) {
        size_ +=
            static_cast<std::size_t>(ngx_sprintf(out, "%uL", static_cast<uint64_t>(number)) - out);
    }
}

void JsonText::put_seconds(std::uint64_t millis)
{
    u_char *out = reserve(NGX_INT64_LEN + 4);

    if (out != nullptr) {
        u_char *end = ngx_sprintf(out, "%uL.%03uL", static_cast<uint64_t>(millis / 1000),
                                  static_cast<uint64_t>(millis % 1000));

        size_ += static_cast<std::size_t>(end - out);
    }
}

void JsonText::put_name(std::string_view name)
{
    if (size_ > 0 && !failed_ && data_[size_ - 1] != '{') {
        put(",");
    }

    put_string(name);
    put(":");
}

void JsonText::put_member(std::string_view name, std::string_view text)
{
    put_name(name);
    put_string(text);
}

void JsonText::put_utf8_member(std::string_view name, std::string_view text)
{
    put_name(name);
    put_escaped(text, true);
}

void JsonText::put_member(std::string_view name, std::uint64_t number)
{
    put_name(name);
    put_number(number);
}

void JsonText::put_seconds_member(std::string_view name, std::uint64_t millis)
{
    put_name(name);
    put_seconds(millis);
}

ngx_buf_t *JsonText::buffer()
{
    auto *b = failed_ ? nullptr : static_cast<ngx_buf_t *>(ngx_calloc_buf(pool_));

    if (b != nullptr) {
        b->pos = data_;
        b->last = data_ + size_;
        b->memory = 1;
        b->last_buf = 1;
    }

    return b;
}

}  // namespace idempotency
