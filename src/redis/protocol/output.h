// The bytes that wait to be written to one connection.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <sys/uio.h>

namespace idempotency {

// A queue of bytes, partly its own, partly somebody else's.  Small strings are
// copied together, so that many commands make few pieces for a writev().
class RedisOutput {
public:
    RedisOutput() = default;
    ~RedisOutput();
    RedisOutput(const RedisOutput &) = delete;
    RedisOutput &operator=(const RedisOutput &) = delete;

    // Both are without effect once memory has failed: see `failed`.
    void copy(std::string_view bytes) noexcept;
    void refer(std::string_view bytes) noexcept;  // they stay until they are written

    // Whether an allocation failed: the queue has a gap and must not be written.
    bool failed() const { return failed_; }

    bool empty() const { return first_ == nullptr; }

    // Bytes since the beginning: what was appended up to now is written when
    // `written` has come to what `appended` is now.
    std::uint64_t appended() const { return appended_; }
    std::uint64_t written() const { return written_; }

    // The head of the queue; returns how many of `out` are filled in.
    std::size_t pieces(iovec *out, std::size_t most) const noexcept;
    void wrote(std::size_t size) noexcept;

    void clear() noexcept;

private:
    struct Segment;

    Segment *add_segment(std::size_t room) noexcept;
    void drop_first() noexcept;

    Segment *first_ = nullptr;
    Segment *last_ = nullptr;
    Segment *spare_ = nullptr;  // one block is kept: most queues are that short
    std::uint64_t appended_ = 0;
    std::uint64_t written_ = 0;
    bool failed_ = false;
};

}  // namespace idempotency
