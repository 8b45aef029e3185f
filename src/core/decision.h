// The two decisions of a covered request, as pure functions: what to do about
// a key that is taken, and what becomes of a claim when its answer is there.

#pragma once

#include <cstddef>
#include <string_view>

#include "core/record.h"

namespace idempotency {

// What a key's record means for a request that comes to it.
enum class Action {
    replay,
    reused,  // another request has this key
    in_progress,
    outcome_unknown,
    not_kept,
};

Action decide_by_record(const Record &record, const Fingerprint &fingerprint);

// Where the final answer of a claimed request comes from.
enum class Origin {
    application,  // a whole head of an answer came, or no upstream was asked
    not_reached,  // nginx's own: the request never went out
    broken,       // nginx's own: it went out, and no whole answer came
};

// `idempotency_unknown`
enum class UnknownPolicy { hold, release, store };

// `X-Accel-Idempotency`: what the application itself says.
struct Word {
    bool release = false;
    bool no_store = false;
    Millis ttl = 0;           // 0: none was given
    bool well_formed = true;  // false where a part was not understood; the rest counts
};

// Reads one field's value into `word`; several fields add up.
void read_word(std::string_view field, Word &word);

struct ResponseFacts {
    Origin origin = Origin::application;
    UnknownPolicy unknown = UnknownPolicy::hold;
    bool retriable = false;  // the status says 'not acted on'
    bool keepable = true;    // small enough, and no stream
    Word word;
};

enum class Settlement {
    keep,
    release,
    unknown,
    not_kept,
};

Settlement decide_settlement(const ResponseFacts &facts);

// What becomes of a claim whose request ended without any answer.
Settlement decide_without_answer(Origin origin, UnknownPolicy unknown);

}  // namespace idempotency
