#include "core/unsent.h"

namespace idempotency {

namespace {

// How many responses are looked at for one that has made no progress.
constexpr int kMostLooks = 16;

}  // namespace

void UnsentResponses::push(Caller &caller, UnsentResponse &response)
{
    response.next = nullptr;
    response.previous = caller.last;

    if (caller.last != nullptr) {
        caller.last->next = &response;
    } else {
        caller.first = &response;
    }

    caller.last = &response;
    caller.held += response.size;
}

void UnsentResponses::unlink(Caller &caller, UnsentResponse &response)
{
    (response.previous != nullptr ? response.previous->next : caller.first) = response.next;
    (response.next != nullptr ? response.next->previous : caller.last) = response.previous;
    caller.held -= response.size;
}

// One that holds something.
UnsentResponses::Caller &UnsentResponses::heaviest()
{
    Caller *found = callers_;

    for (Caller &caller : callers_) {
        if (caller.held > found->held) {
            found = &caller;
        }
    }

    return *found;
}

// Whether the first response of the caller has made progress since it was looked at the last time;
// if so, it is the last one now.
bool UnsentResponses::has_progressed(Caller &caller, Millis now) const
{
    UnsentResponse &response = *caller.first;
    std::uint64_t sent = host_.sent(response);

    if (sent == response.sent) {
        return false;
    }

    response.sent = sent;
    response.progress_at = now;
    unlink(caller, response);
    push(caller, response);
    return true;
}

// The first response of the caller that has made no progress since it was looked at the last
// time; if all have, the one that was looked at first.
UnsentResponse &UnsentResponses::find_stalled(Caller &caller, Millis now) const
{
    for (int i = 0; i < kMostLooks && has_progressed(caller, now); i++) {
    }

    return *caller.first;
}

// The first response of the caller, if it has made no progress for kGrace; else null.
UnsentResponse *UnsentResponses::find_idle(Caller &caller, Millis now) const
{
    for (int i = 0; i < kMostLooks && caller.first != nullptr; i++) {
        // the others have made progress later
        if (now - caller.first->progress_at < kGrace) {
            return nullptr;
        }

        if (!has_progressed(caller, now)) {
            return caller.first;
        }
    }

    return nullptr;
}

// Where one client comes as many callers, a caller that is read may hold the most: what is not read
// ends first.  `response`: of the caller that holds the most.
UnsentResponse &UnsentResponses::spare(UnsentResponse &response, Millis now)
{
    UnsentResponse *found = nullptr;

    if (now - response.progress_at >= kGrace || callers_[response.caller].held > limit_ / 4) {
        return response;
    }

    for (Caller &caller : callers_) {
        if (found == nullptr || caller.held > callers_[found->caller].held) {
            UnsentResponse *idle = find_idle(caller, now);

            found = idle != nullptr ? idle : found;
        }
    }

    return found != nullptr ? *found : response;
}

void UnsentResponses::end(UnsentResponse &response)
{
    Caller &caller = callers_[response.caller];

    unlink(caller, response);
    held_ -= response.size;
    caller.ending += response.size;
    ending_ += response.size;
    response.is_ending = true;
    host_.end(response);
}

bool UnsentResponses::start_loading(std::size_t size, std::size_t caller)
{
    Caller &own = callers_[caller];

    if ((own.loading > 0 && own.loading + size > limit_ / 4)
        || (loading_ > 0 && loading_ + size > limit_ / 2))
    {
        return false;
    }

    own.loading += size;
    loading_ += size;
    return true;
}

void UnsentResponses::end_loading(std::size_t size, std::size_t caller)
{
    callers_[caller].loading -= size;
    loading_ -= size;
}

bool UnsentResponses::make_space(std::size_t size, std::size_t caller, Millis now)
{
    const Caller &own = callers_[caller];

    // what ends may keep its memory until its connection has sent a part of it
    if ((ending_ > 0 && held_ + ending_ + size > limit_ + limit_ / 2) || own.ending > limit_ / 4) {
        return false;
    }

    while (held_ > 0 && held_ + size > limit_) {
        Caller &heaviest = this->heaviest();
        UnsentResponse &response = find_stalled(heaviest, now);

        if (&heaviest == &own && now - response.progress_at < kGrace) {
            return false;
        }

        end(spare(response, now));
    }

    return true;
}

void UnsentResponses::add(UnsentResponse &response, std::size_t size, std::size_t caller,
                          Millis now)
{
    while (held_ > 0 && held_ + size > limit_) {
        end(spare(find_stalled(heaviest(), now), now));
    }

    response.size = size;
    response.caller = caller;
    response.sent = host_.sent(response);
    response.progress_at = now;
    held_ += size;
    push(callers_[caller], response);
}

void UnsentResponses::remove(UnsentResponse &response)
{
    Caller &caller = callers_[response.caller];

    if (response.is_ending) {
        caller.ending -= response.size;
        ending_ -= response.size;
    } else if (response.size > 0) {
        unlink(caller, response);
        held_ -= response.size;
    }

    response = UnsentResponse();
}

}  // namespace idempotency
