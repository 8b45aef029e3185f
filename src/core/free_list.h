// A list of objects that are unused and kept for reuse.

#pragma once

#include <cstddef>
#include <new>

namespace idempotency {

// `T` has a member `T *next`, which the list uses while the object is in it.  The list owns the
// objects in it.  It keeps up to `most_kept` of them; without a limit, as many as were ever in use
// at the same time.
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

    // Returns an object, which the caller owns until `give`: an unused one in the state in which
    // it was given, or a new one that is constructed from the arguments.  Null: no memory.
    template <typename... Arguments>
    T *take(Arguments &&...arguments) noexcept
    {
        return first_ != nullptr ? pop()
                                 : new (std::nothrow) T(static_cast<Arguments &&>(arguments)...);
    }

    // Puts an object from `take` into the list, or deletes it if the list is full.
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
