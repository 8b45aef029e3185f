// What a store does with one key, and nothing else.  claim_model.cpp checks this model in
// all its interleavings; each store is then compared with it by random calls
// (`follow_model`).

#pragma once

#include "cmocka.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "core/record.h"
#include "core/store.h"
#include "core/wire.h"

namespace idempotency {

// A claim id, as a number.
using ClaimNumber = std::uint64_t;

inline ClaimId claim_id(ClaimNumber number)
{
    ClaimId claim{};

    wire::put_u64(claim.bytes.data() + 8, number);
    return claim;
}

template <class Value>
struct ModelKey {
    enum class Holds : unsigned char { nothing, claim, result, freed };

    bool is_free() const { return holds == Holds::nothing || holds == Holds::freed; }

    Holds holds = Holds::nothing;
    ClaimNumber claim_number = 0;
    Token token = 0;
    Millis left = 0;
    Value value{};

    // `next` is the token that a new claim gets, higher than all before.
    Verdict claim(ClaimNumber by, Token next, const Value &claim, Millis lifetime)
    {
        if (!is_free()) {
            return Verdict::found;
        }

        *this = {Holds::claim, by, next, lifetime, claim};
        return Verdict::claimed;
    }

    // A free key takes a late result: no other claim has followed, and no operator has freed it.
    Verdict settle(ClaimNumber by, Token its, const Value &result, Millis lifetime)
    {
        if (holds == Holds::freed || (holds != Holds::nothing && claim_number != by)) {
            return Verdict::lost;
        }

        *this = {Holds::result, by, its, lifetime, result};
        return Verdict::done;
    }

    Verdict release(ClaimNumber by)
    {
        if (!is_claim_of(by)) {
            return Verdict::lost;
        }

        *this = {};
        return Verdict::done;
    }

    Verdict renew(ClaimNumber by, Millis lifetime)
    {
        if (!is_claim_of(by)) {
            return holds == Holds::nothing ? Verdict::gone : Verdict::lost;
        }

        left = lifetime;
        return Verdict::done;
    }

    void pass(Millis time)
    {
        left -= std::min(left, time);

        if (left == 0) {
            *this = {};
        }
    }

    // What an operator has decided, see Call::Kind::replace.
    Verdict replace(const std::string &seen, ClaimNumber by, const Value &record, Millis lifetime,
                    Millis most_remaining)
    {
        if (holds == Holds::nothing || (holds == Holds::freed && !seen.empty())) {
            return Verdict::gone;
        }

        if ((!seen.empty() && seen_part(value) != seen) || left > most_remaining) {
            return Verdict::lost;
        }

        if (record.empty()) {
            *this = {};
        } else {
            *this = {state_of(record) == State::freed ? Holds::freed : Holds::result, by,
                     token_of(record), lifetime, record};
        }

        return Verdict::done;
    }

    bool is_claim_of(ClaimNumber by) const { return holds == Holds::claim && claim_number == by; }
};

// The end of a call.
struct Outcome {
    Verdict verdict = Verdict::unavailable;
    Token token = 0;
    Millis remaining = 0;
    std::string value;
};

// A store whose keys are numbers, and whose time passes when it is told so.
class Engine {
public:
    virtual ~Engine() = default;

    // `wanted`: the token that the claim is to have; 0: a new one.
    virtual Outcome claim(unsigned key, ClaimNumber by, Token wanted, const std::string &record,
                          Millis lifetime) = 0;
    virtual Verdict settle(unsigned key, ClaimNumber by, const std::string &record,
                           Millis lifetime) = 0;
    virtual Verdict release(unsigned key, ClaimNumber by) = 0;
    virtual Verdict renew(unsigned key, ClaimNumber by, Millis lifetime) = 0;
    // `call` has all but the id of the key.
    virtual Verdict replace(unsigned key, Call &call) = 0;
    virtual void pass(Millis time) = 0;

    // Between two calls.
    virtual void disturb(std::mt19937 &) {}

    unsigned keys = 4;
    std::size_t longest = 300;  // of a result
    Millis slack = 0;           // how much more of a lifetime may have passed
};

// Bytes that begin as a record does; what follows the head is `rest`.
inline std::string record_bytes(State state, ClaimNumber by, Token token, Millis lifetime,
                                Millis hold, const std::string &rest)
{
    unsigned char head[kRecordHeadSize];
    RecordHead what;

    what.state = state;
    what.claim = claim_id(by);
    what.token = token;
    what.lifetime = lifetime;
    what.hold = hold;

    RecordWriter writer(head, what);

    writer.finish(KeyId{});
    return std::string(reinterpret_cast<char *>(head), sizeof(head)) + rest;
}

inline std::string with_token(std::string record, Token token)
{
    wire::put_u64(reinterpret_cast<unsigned char *>(&record[kTokenOffset]), token);
    return record;
}

// A call for `replace`, with all but the id.
struct ReplaceCall : Call {
    std::string seen_bytes, record;
    std::string_view piece;

    ReplaceCall(std::string seen_now, std::string by_record, Millis how_long, Millis most)
        : seen_bytes(std::move(seen_now)), record(std::move(by_record)), piece(record)
    {
        kind = Kind::replace;
        seen = seen_bytes;
        value = {&piece, record.empty() ? 0u : 1u};
        lifetime = how_long;
        most_remaining = most;
        ended = [](Call &) {};
    }
};

// Random calls, by holders of now and of before and by none, and every reply as the model
// has it.
inline void follow_model(Engine &engine, unsigned seed, int steps)
{
    constexpr Millis kUnit = 1000000;

    struct Claim {
        ClaimNumber number;
        Token token;
        Millis lifetime;  // of each renewal, too
    };

    std::mt19937 random(seed);
    std::vector<ModelKey<std::string>> keys(engine.keys);
    std::vector<std::vector<Claim>> claims(engine.keys);
    std::vector<Token> highest(engine.keys);
    ClaimNumber last = 100;

    for (int i = 0; i < steps; i++) {
        unsigned n = random() % engine.keys;
        ModelKey<std::string> &key = keys[n];
        std::size_t back = random() % 3;
        Claim by =
            back < claims[n].size() ? claims[n][claims[n].size() - 1 - back] : Claim{5, 5, kUnit};
        Millis time = (random() % 4 + 1) * kUnit;
        Millis hold = random() % 2 == 0 ? 0 : random() % (time / kUnit) * kUnit;

        engine.disturb(random);

        switch (random() % 10) {
        case 0:
        case 1: {
            // mostly a new claim, sometimes one that was gone and is claimed again
            bool again = random() % 4 == 0 && by.number != 5;
            Claim wanted = again ? by : Claim{++last, 0, time};

            time = wanted.lifetime;
            hold = std::min(hold, time - 1);

            std::string record = record_bytes(State::running, wanted.number, 0, time, hold, "");
            Outcome seen = engine.claim(n, wanted.number, wanted.token, record, time);

            assert_int_equal(
                int(seen.verdict),
                int(key.claim(wanted.number, seen.token, with_token(record, seen.token), time)));

            if (seen.verdict != Verdict::claimed) {
                assert_true(seen.token == key.token);
                assert_true(seen.value == key.value);
                assert_in_range(seen.remaining, key.left - engine.slack, key.left);
            } else if (again) {
                assert_true(seen.token == wanted.token);
            } else {
                assert_true(seen.token > highest[n]);
                highest[n] = seen.token;
                claims[n].push_back({wanted.number, seen.token, time});
            }
            break;
        }

        case 2:
        case 3: {
            constexpr State kResults[] = {State::kept, State::unknown, State::not_kept};
            std::string rest(random() % engine.longest, static_cast<char>('a' + random() % 26));
            std::string record =
                record_bytes(kResults[random() % 3], by.number, by.token, time, 0, rest);

            assert_int_equal(int(engine.settle(n, by.number, record, time)),
                             int(key.settle(by.number, by.token, record, time)));
            break;
        }

        case 4:
            assert_int_equal(int(engine.release(n, by.number)), int(key.release(by.number)));
            break;

        case 5:
        case 6:
            assert_int_equal(int(engine.renew(n, by.number, by.lifetime)),
                             int(key.renew(by.number, by.lifetime)));
            break;

        case 7:
        case 8: {
            // what is there, or something else; a claim that is freed keeps its id
            constexpr State kStates[] = {State::freed, State::not_kept};
            State state = kStates[random() % 2];
            ClaimNumber number = state == State::freed ? key.claim_number : ++last;
            std::string other = record_bytes(State::running, 5, 5, 1, 0, "");
            std::string seen(seen_part(key.is_free() || random() % 4 == 0 ? other : key.value));
            std::string record =
                random() % 3 == 0 ? "" : record_bytes(state, number, key.token, time, 0, "");
            bool is_limited = random() % 4 == 0;

            if (random() % 8 == 0) {
                seen.clear();
            }

            ReplaceCall call(seen, record, time, is_limited ? 0 : kAnyRemaining);

            assert_int_equal(int(engine.replace(n, call)),
                             int(key.replace(seen, number, record, time, call.most_remaining)));
            break;
        }

        default:
            time = random() % 3 * kUnit;
            engine.pass(time);

            for (ModelKey<std::string> &each : keys) {
                each.pass(time);
            }
        }
    }
}

}  // namespace idempotency
