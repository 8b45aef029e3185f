#include "store/redis_waiting.h"

#include <algorithm>
#include <cstdlib>

namespace idempotency {

struct RedisWaiting::Place {
    Place *next;
    Call *call;
    Millis deadline;
};

bool RedisWaiting::push(Call &call, Millis deadline) noexcept
{
    auto place = static_cast<Place *>(std::malloc(sizeof(Place)));

    if (place == nullptr) {
        return false;
    }

    *place = {nullptr, &call, deadline};
    append(place);
    return true;
}

void RedisWaiting::append(Place *place) noexcept
{
    place->next = nullptr;

    if (last_ != nullptr) {
        last_->next = place;
    } else {
        first_ = place;
    }

    last_ = place;
}

Call *RedisWaiting::pop(Millis &deadline) noexcept
{
    Place *place = first_;

    if (place == nullptr) {
        return nullptr;
    }

    first_ = place->next;

    if (first_ == nullptr) {
        last_ = nullptr;
    }

    Call *call = place->call;

    deadline = place->deadline;
    std::free(place);
    return call;
}

void RedisWaiting::end(Place *place) noexcept
{
    Call *call = place->call;

    std::free(place);
    call->reply = Reply();
    call->ended(*call);
}

void RedisWaiting::expire(Millis now) noexcept
{
    Place *expired = nullptr;
    Place **end_of_expired = &expired;
    Place *at = first_;

    first_ = nullptr;
    last_ = nullptr;

    while (at != nullptr) {
        Place *place = at;

        at = place->next;

        if (place->deadline > now) {
            append(place);
        } else {
            place->next = nullptr;
            *end_of_expired = place;
            end_of_expired = &place->next;
        }
    }

    while (expired != nullptr) {
        Place *place = expired;

        expired = place->next;
        end(place);
    }
}

void RedisWaiting::end_all() noexcept { expire(kNever); }

Millis RedisWaiting::next_deadline() const noexcept
{
    Millis next = kNever;

    for (const Place *at = first_; at != nullptr; at = at->next) {
        next = std::min(next, at->deadline);
    }

    return next;
}

}  // namespace idempotency
