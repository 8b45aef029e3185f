// Objects that are kept for further use.

#pragma once

#include <cstddef>
#include <new>

namespace idempotency {

// `T` has a `T *next`, which is this list's while nobody uses the object.  With
// no limit to those that are kept their number is that of the most that were
// ever used at a time.
template <typename T>
class FreeList {
public:
    explicit FreeList(std::size_t most_kept = ~std::size_t(0)) : most_kept_(most_kept) {}
    FreeList(const FreeList &) = delete;
    FreeList &operator=(const FreeList &) = delete;

    ~FreeList()
    {
        while (first_ != nullptr) {
            delete pop();
        }
    }

    // One that is the caller's until it is given back: as it was left, or made
    // of the arguments.  Null without memory.
    template <typename... Arguments>
    T *take(Arguments &&...arguments) noexcept
    {
        return first_ != nullptr ? pop()
                                 : new (std::nothrow) T(static_cast<Arguments &&>(arguments)...);
    }

    void give(T *object) noexcept
    {
        if (kept_ == most_kept_) {
            delete object;
            return;
        }

        object->next = first_;
        first_ = object;
        kept_++;
    }

private:
    T *pop() noexcept
    {
        T *object = first_;

        first_ = object->next;
        kept_--;
        return object;
    }

    std::size_t most_kept_;
    std::size_t kept_ = 0;
    T *first_ = nullptr;
};

}  // namespace idempotency
