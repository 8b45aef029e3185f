#pragma once

#include <cstddef>
#include <new>

namespace idempotency {

// Memory that grows and is used again.
class Buffer {
public:
    Buffer() = default;
    ~Buffer() { ::operator delete(data_); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    // Returns memory for `size` bytes, whose contents are lost with the next call; null: there is
    // none.
    unsigned char *reserve(std::size_t size)
    {
        if (size > size_) {
            ::operator delete(data_);
            data_ = static_cast<unsigned char *>(::operator new(size, std::nothrow));
            size_ = data_ != nullptr ? size : 0;
        }

        return data_;
    }

    // Frees a large buffer.
    void trim()
    {
        if (size_ > kMaxUnused) {
            ::operator delete(data_);
            data_ = nullptr;
            size_ = 0;
        }
    }

private:
    // In bytes.
    static constexpr std::size_t kMaxUnused = 16 * 1024;

    unsigned char *data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace idempotency
