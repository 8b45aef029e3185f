// Pieces of memory as a chain of nginx's buffers, for send_chain().

#pragma once

#include "nginx/nginx.h"

#include <cstddef>

#include <sys/uio.h>

namespace idempotency {

class RedisOutputChain {
public:
    static constexpr std::size_t kMaxPieces = 64;  // as many as nginx gives to one writev()

    // `count` is at least 1 and at most kMaxPieces.  The chain is valid as long as this
    // object and the memory of the pieces.
    RedisOutputChain(const iovec *pieces, std::size_t count) noexcept
    {
        ngx_memzero(buffers_, count * sizeof(ngx_buf_t));

        for (std::size_t i = 0; i < count; i++) {
            buffers_[i].pos = static_cast<u_char *>(pieces[i].iov_base);
            buffers_[i].last = buffers_[i].pos + pieces[i].iov_len;
            buffers_[i].memory = 1;
            links_[i].buf = &buffers_[i];
            links_[i].next = i + 1 < count ? &links_[i + 1] : nullptr;
        }

        size_ = size_of(links_);
    }

    ngx_chain_t *first() { return links_; }

    // How many bytes have been sent, where send_chain() has returned `rest`.
    std::size_t sent(const ngx_chain_t *rest) const { return size_ - size_of(rest); }

private:
    static std::size_t size_of(const ngx_chain_t *link)
    {
        std::size_t size = 0;

        for (/* void */; link != nullptr; link = link->next) {
            size += static_cast<std::size_t>(link->buf->last - link->buf->pos);
        }

        return size;
    }

    ngx_buf_t buffers_[kMaxPieces];
    ngx_chain_t links_[kMaxPieces];
    std::size_t size_;
};

}  // namespace idempotency
