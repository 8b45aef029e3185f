// The behaviour of a store for one key: the model that claim_model.cpp checks in all its interleavings, and
// with which each engine is compared in random calls (`follow_model`).

#pragma once

#include "cmocka.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "core/record.h"
#include "core/wire.h"
#include "core/store.h"

namespace idempotency {

template <class Value>
struct ModelKey {
    enum class Holds : unsigned char { nothing, claim, result };

    Holds holds = Holds::nothing;
    Token token = 0;
    Millis left = 0;
    Value value{};

    // `next` is the token that a claim would get, higher than all before.
    Verdict claim(Token next, const Value &claim, Millis lease)
    {
        if (holds != Holds::nothing) {
            return Verdict::found;
        }

        *this = {Holds::claim, next, lease, claim};
        return Verdict::claimed;
    }

    // A key without a holder accepts the late result.
    Verdict settle(Token by, const Value &result, Millis lifetime)
    {
        if (holds != Holds::nothing && token != by) {
            return Verdict::lost;
        }

        *this = {Holds::result, by, lifetime, result};
        return Verdict::done;
    }

    Verdict release(Token by)
    {
        if (!is_claim_of(by)) {
            return Verdict::lost;
        }

        *this = {};
        return Verdict::done;
    }

    Verdict renew(Token by, Millis lease)
    {
        if (!is_claim_of(by)) {
            return Verdict::lost;
        }

        left = lease;
        return Verdict::done;
    }

    void pass(Millis time)
    {
        left -= std::min(left, time);

        if (left == 0) {
            *this = {};
        }
    }

private:
    bool is_claim_of(Token by) const { return holds == Holds::claim && token == by; }
};

// The result of a call.
struct Outcome {
    Verdict verdict = Verdict::unavailable;
    Token token = 0;
    Millis remaining = 0;
    std::string value;
};

// An engine whose keys have numbers, and whose time the test sets.
class Engine {
public:
    virtual ~Engine() = default;

    virtual Outcome claim(unsigned key, const std::string &record, Millis lease) = 0;
    virtual Verdict settle(unsigned key, Token by, const std::string &record, Millis lifetime) = 0;
    virtual Verdict release(unsigned key, Token by) = 0;
    virtual void renew(unsigned key, Token by, Millis lease) = 0;
    virtual void pass(Millis time) = 0;

    // Between two calls.
    virtual void disturb(std::mt19937 &) {}

    unsigned keys = 4;
    std::size_t longest = 300;  // of a result
    Millis slack = 0;           // how much of a lifetime may have passed besides
};

inline std::string with_token(std::string record, Token token)
{
    wire::put_u64(reinterpret_cast<unsigned char *>(&record[kTokenOffset]), token);
    return record;
}

// Random calls by current holders, earlier holders and without a claim; all results are those of the model.
inline void follow_model(Engine &engine, unsigned seed, int steps)
{
    constexpr Millis kUnit = 1000000;
    std::mt19937 random(seed);
    std::vector<ModelKey<std::string>> keys(engine.keys);
    std::vector<std::vector<Token>> tokens(engine.keys);
    const std::string claim_record = std::string(kStateOffset, '\1') + "R" + std::string(72, '\0');

    for (int i = 0; i < steps; i++) {
        unsigned n = random() % engine.keys;
        ModelKey<std::string> &key = keys[n];
        std::size_t back = random() % 3;
        Token by = back < tokens[n].size() ? tokens[n][tokens[n].size() - 1 - back] : 5;
        Millis time = (random() % 4 + 1) * kUnit;

        engine.disturb(random);

        switch (random() % 7) {
        case 0:
        case 1: {
            Outcome seen = engine.claim(n, claim_record, time);

            assert_int_equal(
                int(seen.verdict),
                int(key.claim(seen.token, with_token(claim_record, seen.token), time)));

            if (seen.verdict == Verdict::claimed) {
                assert_true(tokens[n].empty() || seen.token > tokens[n].back());
                tokens[n].push_back(seen.token);
            } else {
                assert_true(seen.token == key.token);
                assert_true(seen.value == key.value);
                assert_in_range(seen.remaining, key.left - engine.slack, key.left);
            }
            break;
        }

        case 2:
        case 3: {
            std::string record =
                with_token(std::string(kStateOffset, '\1') + "KUN"[random() % 3]
                               + std::string(8, '\0'),
                           by)
                + std::string(random() % engine.longest, static_cast<char>('a' + random() % 26));

            assert_int_equal(int(engine.settle(n, by, record, time)),
                             int(key.settle(by, record, time)));
            break;
        }

        case 4:
            assert_int_equal(int(engine.release(n, by)), int(key.release(by)));
            break;

        // the time for which the key stays taken shows the result
        case 5:
            engine.renew(n, by, time);
            key.renew(by, time);
            break;

        default:
            time = random() % 3 * kUnit;
            engine.pass(time);

            for (ModelKey<std::string> &each : keys) {
                each.pass(time);
            }
        }
    }
}

// The same for an engine of its own for each seed.
template <class TestedEngine>
void follow_model_in_runs(unsigned runs, int steps)
{
    for (unsigned seed = 0; seed < runs; seed++) {
        TestedEngine engine;

        follow_model(engine, seed, steps);
    }
}

}  // namespace idempotency
