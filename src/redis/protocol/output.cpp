#include "redis/protocol/output.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include <openssl/crypto.h>

namespace idempotency {

namespace {

constexpr std::size_t kBlockSize = 16 * 1024;

}  // namespace

// A block of the queue, whose bytes follow this head in memory; or a reference to
// bytes of a caller, with a capacity of 0.
struct RedisOutput::Segment {
    Segment *next;
    const char *first;
    std::size_t size;
    std::size_t space;  // how many more bytes fit into the block
    std::size_t capacity;

    char *block() { return reinterpret_cast<char *>(this + 1); }
};

RedisOutput::~RedisOutput()
{
    clear();
    std::free(spare_);
}

RedisOutput::Segment *RedisOutput::add_segment(std::size_t capacity) noexcept
{
    Segment *segment = nullptr;

    if (capacity > 0 && spare_ != nullptr) {
        segment = spare_;
        spare_ = nullptr;
    } else {
        segment = static_cast<Segment *>(std::malloc(sizeof(Segment) + capacity));
    }

    if (segment == nullptr) {
        failed_ = true;
        return nullptr;
    }

    *segment = {nullptr, segment->block(), 0, capacity, capacity};

    if (last_ != nullptr) {
        last_->next = segment;
    } else {
        first_ = segment;
    }

    last_ = segment;
    return segment;
}

void RedisOutput::copy(std::string_view bytes) noexcept
{
    while (!bytes.empty() && !failed_) {
        Segment *into = last_ != nullptr && last_->space > 0 ? last_ : add_segment(kBlockSize);

        if (into == nullptr) {
            return;
        }

        std::size_t n = std::min(bytes.size(), into->space);

        std::memcpy(into->block() + (into->capacity - into->space), bytes.data(), n);
        into->size += n;
        into->space -= n;
        appended_ += n;
        bytes.remove_prefix(n);
    }
}

void RedisOutput::refer(std::string_view bytes) noexcept
{
    Segment *segment = bytes.empty() || failed_ ? nullptr : add_segment(0);

    if (segment != nullptr) {
        segment->first = bytes.data();
        segment->size = bytes.size();
        appended_ += bytes.size();
    }
}

std::size_t RedisOutput::pieces(iovec *out, std::size_t max) const noexcept
{
    std::size_t n = 0;

    if (failed_) {
        return 0;
    }

    for (const Segment *at = first_; at != nullptr && n < max; at = at->next) {
        out[n].iov_base = const_cast<char *>(at->first);
        out[n].iov_len = at->size;
        n++;
    }

    return n;
}

void RedisOutput::wrote(std::size_t size) noexcept
{
    written_ += size;

    while (first_ != nullptr && size >= first_->size) {
        size -= first_->size;
        drop_first();
    }

    if (first_ != nullptr) {
        first_->first += size;
        first_->size -= size;
    }
}

void RedisOutput::drop_first() noexcept
{
    Segment *segment = first_;

    if (has_secret_) {
        OPENSSL_cleanse(segment->block(), segment->capacity - segment->space);
    }

    first_ = segment->next;

    if (first_ == nullptr) {
        last_ = nullptr;
        has_secret_ = false;
    }

    if (segment->capacity > 0 && spare_ == nullptr) {
        spare_ = segment;
    } else {
        std::free(segment);
    }
}

void RedisOutput::clear() noexcept
{
    while (first_ != nullptr) {
        drop_first();
    }

    appended_ = 0;
    written_ = 0;
    failed_ = false;
}

}  // namespace idempotency
