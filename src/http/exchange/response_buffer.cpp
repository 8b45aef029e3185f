#include "http/exchange/response_buffer.h"

#include <algorithm>

namespace idempotency {

namespace {

// Bytes, if the length of the body is not known.
constexpr std::size_t kFirstPiece = 4096;
constexpr std::size_t kLargestPiece = 64 * 1024;

}  // namespace

bool ResponseBuffer::add_piece()
{
    if (body_pieces_.elts == nullptr
        && ngx_array_init(&body_pieces_, pool_, 4, sizeof(std::string_view)) != NGX_OK)
    {
        return false;
    }

    std::size_t size = expected_size_ > body_size_
                           ? expected_size_ - body_size_
                           : ngx_min(ngx_max(body_size_, kFirstPiece), kLargestPiece);
    auto *memory = static_cast<char *>(ngx_pnalloc(pool_, size));
    auto *piece = static_cast<std::string_view *>(memory != nullptr ? ngx_array_push(&body_pieces_)
                                                                    : nullptr);

    if (piece == nullptr) {
        return false;
    }

    *piece = {memory, 0};
    free_in_last_piece_ = size;
    return true;
}

std::size_t ResponseBuffer::append(std::string_view bytes)
{
    std::size_t size_before = body_size_;

    while (!bytes.empty() && (free_in_last_piece_ > 0 || add_piece())) {
        auto *last = static_cast<std::string_view *>(body_pieces_.elts) + body_pieces_.nelts - 1;
        std::size_t n = ngx_min(free_in_last_piece_, bytes.size());

        ngx_memcpy(const_cast<char *>(last->data()) + last->size(), bytes.data(), n);
        *last = {last->data(), last->size() + n};
        free_in_last_piece_ -= n;
        body_size_ += n;
        bytes.remove_prefix(n);
    }

    return body_size_ - size_before;
}

void ResponseBuffer::free_pieces(ngx_uint_t first)
{
    auto *piece = static_cast<std::string_view *>(body_pieces_.elts);

    for (ngx_uint_t i = first; i < body_pieces_.nelts; i++) {
        // a small piece is part of a block of the pool, and stays there
        ngx_pfree(pool_, const_cast<char *>(piece[i].data()));
    }

    if (body_pieces_.nelts > first) {
        body_pieces_.nelts = first;
        free_in_last_piece_ = 0;
    }
}

unsigned char *ResponseBuffer::allocate_prefix(std::size_t size)
{
    prefix_ = static_cast<unsigned char *>(ngx_pnalloc(pool_, size));
    return prefix_;
}

bool ResponseBuffer::get_record(Pieces &record)
{
    if (ngx_array_init(&record_pieces_, pool_, body_pieces_.nelts + 1, sizeof(std::string_view))
        != NGX_OK)
    {
        return false;
    }

    auto *pieces = static_cast<std::string_view *>(record_pieces_.elts);

    pieces[0] = {reinterpret_cast<char *>(prefix_), prefix_size_};
    std::copy_n(static_cast<std::string_view *>(body_pieces_.elts), body_pieces_.nelts, pieces + 1);
    record = {pieces, body_pieces_.nelts + 1};
    return true;
}

}  // namespace idempotency
