// The two decisions about a covered request, as pure functions: what to do if its key is
// taken, and what happens to its claim when the response is there.

#pragma once

#include <cstddef>
#include <string_view>

#include "core/outcome.h"
#include "core/record.h"

namespace idempotency {

// What to do with a request whose key is taken.
enum class Action {
    replay,
    reused,  // another request has used this key
    in_progress,
    outcome_unknown,
    not_kept,
};

// `remaining` is what the store says is left of the record's lifetime.  No clock of this
// host is involved: a claim whose store has at most `hold` left has lost its holder.
Action decide_by_record(const Record &record, Millis remaining, const Fingerprint &fingerprint);

// Where the final response of a claimed request comes from.
enum class Origin {
    application,  // the application sent a whole response head, or no upstream was asked
    not_reached,  // nginx: the request was never sent
    broken,       // nginx: the request was sent, and no whole response came
};

// `idempotency_unknown`
enum class UnknownPolicy { hold, release, store };

// The longest lifetime that a response can get while nginx runs: 366 days, in milliseconds.
constexpr Millis kLongestTtl = Millis(366) * 24 * 3600 * 1000;

// One `CODE=TIME` of `idempotency_ttl`.  404 is a range of one status, 4xx one of a hundred.
struct TtlRule {
    unsigned first;
    unsigned last;
    Millis ttl;
};

// The lifetime of a response with this status: a rule for the status alone counts more than one for
// its class, whatever their order.  `otherwise`: there is no rule.
Millis ttl_of_status(const TtlRule *rules, std::size_t count, unsigned status, Millis otherwise);

// How long an unknown outcome is held, in milliseconds.  `hold` is the TIME of the
// directive, 0 if there is none; `ttl` is that of `idempotency_ttl`.
Millis hold_time(UnknownPolicy policy, Millis hold, Millis ttl);

// The response header `X-Accel-Idempotency`, with which the application says what is to
// happen to its response.
struct Word {
    bool release = false;
    bool no_store = false;
    Millis ttl = 0;           // 0: not given
    bool well_formed = true;  // false if a part was not understood; the other parts count
};

// Adds one field value of the header to `word`.
void parse_word(std::string_view field, Word &word);

struct ResponseFacts {
    Origin origin = Origin::application;
    UnknownPolicy unknown = UnknownPolicy::hold;
    bool retriable = false;            // the status means 'not acted on'
    Outcome obstacle = Outcome::none;  // why it can't be kept: one of `not_kept_*`
    bool call_given_up = false;        // the gRPC status is CANCELLED or DEADLINE_EXCEEDED
    Word word;
};

Outcome decide_outcome(const ResponseFacts &facts);

// What happens to a claim whose request ended without any response.
Outcome decide_without_response(Origin origin, UnknownPolicy unknown);

}  // namespace idempotency
