// The responses that a worker has in memory because their clients have not read them yet, and
// which of them end where they need more than a limit.
//
// Each response belongs to a caller.  Where memory is needed, a response of the caller that holds
// the most ends, so a caller can't take the memory of the others.  Where no caller has much, one
// that has made no progress ends first.  Callers are told apart by a hash, and two of them may have
// the same number: they share their fate.
//
// All together need at most twice the limit: the limit itself; half of it while what has ended
// keeps its memory; half of it for what arrives from the store.

#pragma once

#include <cstddef>
#include <cstdint>

#include "core/record.h"

namespace idempotency {

// All members are 0 while the response is not counted.
struct UnsentResponse {
    std::size_t size;      // bytes of memory
    std::size_t caller;    // below UnsentResponses::kCallers
    std::uint64_t sent;    // what its client had taken when it was looked at the last time
    Millis progress_at;    // when `sent` was seen to have grown
    bool is_ending;        // `end` was called
    void *owner;           // of the user of UnsentResponses
    UnsentResponse *next;  // of the same caller, which has made progress later
    UnsentResponse *previous;
};

class UnsentResponses {
public:
    // Two callers have the same number once in so many pairs.  The numbers of all are looked at
    // where memory is needed, in some 10 microseconds.
    static constexpr std::size_t kCallers = 4096;

    // A response of the same caller that has made progress within this time does not end for
    // another one.
    static constexpr Millis kGrace = 1000;

    struct Host {
        // How many bytes the client has taken.
        std::uint64_t (*sent)(const UnsentResponse &response);

        // Ends the response soon, but not within this call: `remove` is called when its memory
        // is free.
        void (*end)(UnsentResponse &response);
    };

    UnsentResponses(std::size_t limit, Host host) : limit_(limit), host_(host) {}

    // A record for `caller` arrives from the store, and its memory is counted until `end_loading`.
    // False: too many arrive at this moment.
    bool start_loading(std::size_t size, std::size_t caller);
    void end_loading(std::size_t size, std::size_t caller);

    // Whether a response of this size needs no space to be made.
    bool has_space(std::size_t size) const { return held_ + ending_ + size <= limit_; }

    // Makes space for a response of `caller`.  False: there is none for it now.
    bool make_space(std::size_t size, std::size_t caller, Millis now);

    // Counts a response, whatever the limit is.  Others end if there is no space for it.
    void add(UnsentResponse &response, std::size_t size, std::size_t caller, Millis now);

    // The memory of the response is free.
    void remove(UnsentResponse &response);

    // Bytes.
    std::size_t held() const { return held_; }
    std::size_t ending() const { return ending_; }
    std::size_t loading() const { return loading_; }

private:
    struct Caller {
        UnsentResponse *first;  // has made no progress for the longest time
        UnsentResponse *last;
        std::size_t held;
        std::size_t ending;
        std::size_t loading;
    };

    static void push(Caller &caller, UnsentResponse &response);
    static void unlink(Caller &caller, UnsentResponse &response);

    Caller &heaviest();
    bool has_progressed(Caller &caller, Millis now) const;
    UnsentResponse &find_stalled(Caller &caller, Millis now) const;
    UnsentResponse *find_idle(Caller &caller, Millis now) const;
    UnsentResponse &spare(UnsentResponse &response, Millis now);
    void end(UnsentResponse &response);

    std::size_t limit_;
    Host host_;
    std::size_t held_ = 0;
    std::size_t ending_ = 0;
    std::size_t loading_ = 0;
    Caller callers_[kCallers]{};
};

}  // namespace idempotency
