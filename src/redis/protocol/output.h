// The bytes that are to be written to one connection.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <sys/uio.h>

namespace idempotency {

// A queue of bytes.  Small strings are copied into common blocks, so that many
// commands make few pieces for a writev(); large ones are only referred to.
class RedisOutput {
public:
    RedisOutput() = default;
    ~RedisOutput();
    RedisOutput(const RedisOutput &) = delete;
    RedisOutput &operator=(const RedisOutput &) = delete;

    // Both do nothing once an allocation has failed: see `failed`.  The bytes of
    // `refer` stay the caller's and must not change until they are written or the
    // queue is cleared.
    void copy(std::string_view bytes) noexcept;
    void refer(std::string_view bytes) noexcept;

    // An allocation has failed: the queue has a gap and must not be written.
    bool failed() const { return failed_; }

    bool empty() const { return first_ == nullptr; }

    // How many bytes have been appended and written since `clear`: what was
    // appended up to now has been written when `written` reaches the present value
    // of `appended`.
    std::uint64_t appended() const { return appended_; }
    std::uint64_t written() const { return written_; }

    // Fills in up to `max` pieces from the head of the queue; returns how many.
    std::size_t pieces(iovec *out, std::size_t max) const noexcept;

    // `size` bytes have been written.
    void wrote(std::size_t size) noexcept;

    // What has been appended up to now has a secret: it is wiped when it has been written.
    void mark_secret() noexcept { has_secret_ = true; }

    void clear() noexcept;

private:
    struct Segment;

    Segment *add_segment(std::size_t capacity) noexcept;
    void drop_first() noexcept;

    Segment *first_ = nullptr;
    Segment *last_ = nullptr;
    Segment *spare_ = nullptr;  // one block is kept for later: most queues need no more
    std::uint64_t appended_ = 0;
    std::uint64_t written_ = 0;
    bool failed_ = false;
    bool has_secret_ = false;
};

}  // namespace idempotency
