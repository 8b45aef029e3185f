#include "redis/protocol/waiting.h"

#include <new>

namespace idempotency {

struct RedisWaiting::Place {
    Place *next;
    Call *call;
    Millis deadline;
};

bool RedisWaiting::push(Call &call, Millis deadline) noexcept
{
    auto place = new (std::nothrow) Place{nullptr, &call, deadline};

    if (place == nullptr) {
        return false;
    }

    places_.push(place);
    return true;
}

Call *RedisWaiting::pop(Millis &deadline) noexcept
{
    if (places_.empty()) {
        return nullptr;
    }

    Place *place = places_.pop();
    Call *call = place->call;

    deadline = place->deadline;
    delete place;
    return call;
}

void RedisWaiting::end(Place *place) noexcept
{
    Call *call = place->call;

    delete place;
    call->reply = Reply();
    call->ended(*call);
}

void RedisWaiting::expire(Millis now) noexcept
{
    DeadlineQueue<Place> expired = places_.take_expired(now);

    while (!expired.empty()) {
        end(expired.pop());
    }
}

void RedisWaiting::end_all() noexcept { expire(kNever); }

Millis RedisWaiting::next_deadline() const noexcept { return places_.next_deadline(); }

}  // namespace idempotency
