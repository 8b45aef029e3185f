// The response of one exchange while it is held or recorded: a copy of its body, and the part
// of its record that comes before the body.

#pragma once

#include "nginx/nginx.h"

#include "core/store.h"

namespace idempotency {

class ResponseBuffer {
public:
    // All memory comes from `pool`, which outlives this object.
    explicit ResponseBuffer(ngx_pool_t *pool) : pool_(pool) {}

    // Call it before the first `append`, if the length of the body is known: it is then
    // copied into one piece.
    void expect(std::size_t length) { expected_size_ = length; }

    // Copies a part of the body.  Returns the number of bytes copied, which is less than
    // `bytes.size()` if there is no memory.
    std::size_t append(std::string_view bytes);

    std::size_t body_size() const { return body_size_; }

    // Of std::string_view.
    const ngx_array_t &body_pieces() const { return body_pieces_; }

    // The pieces so far are sent to the client, so `drop` must not free them.
    void share() { shared_pieces_ = body_pieces_.nelts; }

    // The response is not kept: frees the body, without the pieces that are shared.  Do not
    // append any more.
    void drop() { free_pieces(shared_pieces_); }

    // The same, once the shared pieces have been sent.
    void drop_all() { free_pieces(0); }

    // Memory for head and extensions of the record: the caller writes them, and sets how
    // many bytes it wrote.  Null if there is no memory.
    unsigned char *allocate_prefix(std::size_t size);
    void set_prefix_size(std::size_t size) { prefix_size_ = size; }

    // The whole record, in pieces of this buffer.  False if there is no memory.
    bool get_record(Pieces &record);

private:
    bool add_piece();
    void free_pieces(ngx_uint_t first);

    ngx_pool_t *pool_;
    ngx_array_t body_pieces_{};  // of std::string_view
    ngx_uint_t shared_pieces_ = 0;
    std::size_t body_size_ = 0;
    std::size_t expected_size_ = 0;       // 0: not known
    std::size_t free_in_last_piece_ = 0;  // bytes
    unsigned char *prefix_ = nullptr;
    std::size_t prefix_size_ = 0;
    ngx_array_t record_pieces_{};  // of std::string_view: the prefix, then the body
};

}  // namespace idempotency
