// Processes that share a zone are killed: at random instants, most of them while they hold
// its lock, and at each instruction of each call. What a call has said is compared with what
// is found afterwards.

#include "killed.h"
#include "model.h"

#include <new>

#include "zone/memory_zone.h"

using namespace idempotency;

namespace {

constexpr std::uint64_t kClock = 1700000000000000;
constexpr std::size_t kZoneSize = 2 * 1024 * 1024;
constexpr unsigned kKeys = 48;
constexpr unsigned kLargest = 16 * 1024;
constexpr Millis kLease = 40;
constexpr Millis kLongestHold = 100;

enum class Holds { nothing, claim, result };

struct KeyState {
    Holds holds;
    ClaimNumber by;
    Millis hold;  // of a claim
    Millis expires;
    unsigned size;
    char fill;
};

// What a key holds, and, while a call is under way, what it may hold instead.
struct Expected {
    KeyState states[2];
    unsigned current;
    unsigned pending;
};

struct Shared {
    Lock lock;
    std::atomic<unsigned> calls;
    std::atomic<ClaimNumber> last_claim;
    Fault fault;
    Expected keys[kKeys];
};

std::string claim_record(ClaimNumber by, Millis lifetime, Millis hold)
{
    return record_bytes(State::running, by, 0, lifetime, hold, "");
}

class Worker {
public:
    Worker(Shared &shared, MemoryZone zone, unsigned seed)
        : shared_(shared), zone_(zone), random_(seed)
    {}

    [[noreturn]] void work()
    {
        for (;;) {
            unsigned n = random_() % kKeys;

            shared_.lock.take();

            // what a dead one has left undecided is for the parent to find out
            if (shared_.keys[n].pending == 0) {
                call(n);
            }

            shared_.lock.give();
            shared_.calls++;
        }
    }

private:
    KeyState &begin(unsigned n)
    {
        Expected &key = shared_.keys[n];
        KeyState &next = key.states[1 - key.current];

        next = key.states[key.current];
        return next;
    }

    void intend(unsigned n)
    {
        compiler_keeps_order();
        shared_.keys[n].pending = 1;
        compiler_keeps_order();
    }

    void end(unsigned n, bool changed)
    {
        compiler_keeps_order();
        if (changed) {
            shared_.keys[n].current = 1 - shared_.keys[n].current;
        }
        compiler_keeps_order();
        shared_.keys[n].pending = 0;
    }

    void call(unsigned n)
    {
        const KeyState &is = shared_.keys[n].states[shared_.keys[n].current];
        Millis now = now_ms();
        bool lives = is.holds != Holds::nothing && is.expires > now;

        if (!lives || random_() % 8 == 0) {
            claim(n, lives, now);
        } else if (is.holds == Holds::claim) {
            switch (random_() % 4) {
            case 0:
                renew(n, now);
                break;
            case 1:
                release(n, now);
                break;
            default:
                settle(n, now);
                break;
            }
        }
    }

    void claim(unsigned n, bool lives, Millis now)
    {
        KeyState &next = begin(n);
        ClaimNumber by = ++shared_.last_claim;
        Millis hold = random_() % 2 == 0 ? 0 : random_() % kLongestHold;
        std::string record = claim_record(by, kLease + hold, hold);

        if (!lives) {
            next = {Holds::claim, by, hold, now + kLease + hold, 0, 0};
        }

        intend(n);
        MemoryZone::ClaimReply found = zone_.claim(id_of(n), record, kLease + hold, 0, now, kClock);

        if (found.reply.verdict != (lives ? Verdict::found : Verdict::claimed)) {
            shared_.fault.complain(n, lives ? "was lost" : "could not be claimed");
        }

        end(n, !lives);
    }

    void settle(unsigned n, Millis now)
    {
        KeyState &next = begin(n);

        next.holds = Holds::result;
        next.expires = now + 1 + random_() % 200;
        next.size = random_() % kLargest;
        next.fill = static_cast<char>('a' + random_() % 26);

        std::string body(next.size, next.fill);
        std::string_view piece = body;

        intend(n);
        if (zone_.settle(id_of(n), claim_id(next.by), Pieces{&piece, 1}, next.expires - now, now)
            != Verdict::done)
        {
            shared_.fault.complain(n, "a claim could not be settled");
        }
        end(n, true);
    }

    void renew(unsigned n, Millis now)
    {
        KeyState &next = begin(n);

        next.expires = now + kLease + next.hold;
        intend(n);
        if (zone_.renew(id_of(n), claim_id(next.by), kLease + next.hold, now) != Verdict::done) {
            shared_.fault.complain(n, "a claim could not be renewed");
        }
        end(n, true);
    }

    void release(unsigned n, Millis now)
    {
        KeyState &next = begin(n);

        next.holds = Holds::nothing;
        intend(n);
        if (zone_.release(id_of(n), claim_id(next.by), now) != Verdict::done) {
            shared_.fault.complain(n, "a claim could not be released");
        }
        end(n, true);
    }

    Shared &shared_;
    MemoryZone zone_;
    std::mt19937 random_;
};

class Scene {
public:
    Scene()
        : zone_(new_zone<MemoryZone>(kZoneSize)),
          shared_(*new (map_shared(sizeof(Shared))) Shared()),
          victims_(shared_.lock, [this](unsigned seed) { Worker(shared_, zone_, seed).work(); })
    {}

    void kill_one(unsigned round)
    {
        victims_.kill_one(round, [&] { look(round % 8 == 0); });
        assert_string_equal(shared_.fault.text, "");
    }

    unsigned within_lock() const { return victims_.within_lock(); }
    unsigned within_call() const { return within_call_; }
    unsigned recoveries() const { return recoveries_; }
    unsigned calls() const { return shared_.calls; }

private:
    // The first call after a kill, and what the dead one may have left.
    void look(bool at_all)
    {
        Millis now = now_ms();

        recoveries_ += zone_.recover();
        if (!zone_.is_consistent()) {
            shared_.fault.complain(0, "the zone is not consistent");
        }

        for (unsigned n = 0; n < kKeys; n++) {
            within_call_ += shared_.keys[n].pending;
            if (at_all || shared_.keys[n].pending != 0) {
                check(n, now);
            }
        }

        if (!zone_.is_consistent()) {
            shared_.fault.complain(0, "the zone is not consistent after it was looked at");
        }
    }

    void check(unsigned n, Millis now)
    {
        Expected &key = shared_.keys[n];
        ClaimNumber by = ++shared_.last_claim;
        MemoryZone::ClaimReply found =
            zone_.claim(id_of(n), claim_record(by, kLease, 0), kLease, 0, now, kClock);
        const KeyState *seen = nullptr;

        for (unsigned i = 0; i <= key.pending && seen == nullptr; i++) {
            const KeyState &state = key.states[i == 0 ? key.current : 1 - key.current];

            if (is_of(state, found, now)) {
                seen = &state;
            }
        }

        if (seen == nullptr) {
            shared_.fault.complain(
                n, found.reply.verdict == Verdict::claimed ? "what it held was lost"
                   : found.reply.verdict == Verdict::found ? "holds what nobody gave it"
                                                           : "there is no room");
            return;
        }

        KeyState is = *seen;

        if (found.reply.verdict == Verdict::claimed) {
            is = {Holds::claim, by, 0, now + kLease, 0, 0};
        }

        key.states[0] = is;
        key.current = 0;
        key.pending = 0;
    }

    // A claim or a result is there until its time has come, to the millisecond.
    bool is_of(const KeyState &state, const MemoryZone::ClaimReply &found, Millis now)
    {
        bool lives = state.holds != Holds::nothing && state.expires > now;

        if (found.reply.verdict != Verdict::found) {
            return found.reply.verdict == Verdict::claimed && !lives;
        }

        if (!lives || found.reply.remaining != state.expires - now) {
            return false;
        }

        std::string value(found.value_size, '\0');

        zone_.read(found.entry, &value[0]);
        return state.holds == Holds::claim
                   ? value.size() == kRecordHeadSize && claim_of(value) == claim_id(state.by)
                   : value == std::string(state.size, state.fill);
    }

    MemoryZone zone_;
    Shared &shared_;
    unsigned within_call_ = 0;
    unsigned recoveries_ = 0;
    Victims victims_;
};

UNIT_TEST(the_zone_survives_those_who_use_it)
{
    Scene scene;
    unsigned kills = 0;

    for (; goes_on(kills, scene.within_call()); kills++) {
        scene.kill_one(kills);
    }

    std::printf(
        "%u calls, %u kills, %u of them within the lock, %u within a call, %u within a change\n",
        scene.calls(), kills, scene.within_lock(), scene.within_call(), scene.recoveries());
    assert_true(scene.within_call() >= kWithinCall);
}

// A zone in which one key has a claim, another a claim whose lease has expired, another a result,
// and one nothing.
struct Steps {
    static constexpr unsigned kClaim = 1, kResult = 2, kFree = 3, kExpired = 4, kHeld = 5;
    static constexpr Millis kHold = 20000;

    // The zone has noticed that the lease has expired.
    bool noticed = false;

    void *memory = map_shared(kZoneMinimum);
    std::vector<std::uint64_t> copy = std::vector<std::uint64_t>(kZoneMinimum / 8);
    MemoryZone zone{memory, kZoneMinimum};
    std::string result = std::string(1000, 'r');
    std::string answer = std::string(1200, 'a');
    Millis now = 1000000;
    Token token = 0;

    ~Steps() { munmap(memory, kZoneMinimum); }

    void set()
    {
        assert_true(zone.format(kZoneSecret));
        token = claim(kClaim).reply.token;
        claim(kResult);
        settle(kResult, result, 10000);
        claim(kExpired);
        settle(kExpired, result, 500);
        claim(kHeld, 500, kHold);
        now += 1000;

        if (noticed) {
            claim(kFree);
            release(kFree);
        }
    }

    // Each key has one claim id, whose number is that of the key.
    MemoryZone::ClaimReply claim(unsigned n, Millis lease = 5000, Millis hold = 0)
    {
        return zone.claim(id_of(n), claim_record(n, lease + hold, hold), lease + hold, 0, now,
                          kClock);
    }

    Verdict settle(unsigned n, std::string_view body, Millis lifetime)
    {
        return zone.settle(id_of(n), claim_id(n), Pieces{&body, 1}, lifetime, now);
    }

    Verdict release(unsigned n) { return zone.release(id_of(n), claim_id(n), now); }

    Verdict renew(unsigned n, Millis lifetime)
    {
        return zone.renew(id_of(n), claim_id(n), lifetime, now);
    }

    std::string value(const MemoryZone::ClaimReply &found)
    {
        std::string out(found.value_size, '\0');

        zone.read(found.entry, &out[0]);
        return out;
    }

    // What no call of another key may touch.
    void check_result()
    {
        MemoryZone::ClaimReply found = claim(kResult);

        assert_int_equal(int(found.reply.verdict), int(Verdict::found));
        assert_int_equal(found.reply.remaining, 9000);
        assert_true(value(found) == result);
    }
};

UNIT_TEST(a_claim_is_there_or_not)
{
    Steps steps;

    kill_at_each_instruction(
        steps, [&] { steps.claim(Steps::kFree); },
        [&](bool died) {
            MemoryZone::ClaimReply found = steps.claim(Steps::kFree);

            if (!died || found.reply.verdict != Verdict::claimed) {
                assert_int_equal(int(found.reply.verdict), int(Verdict::found));
                assert_int_equal(found.reply.remaining, 5000);
                assert_int_equal(found.value_size, kRecordHeadSize);
            }
            steps.now += 5000;  // and ends with its lease
            assert_int_equal(int(steps.claim(Steps::kFree).reply.verdict), int(Verdict::claimed));
        });
}

UNIT_TEST(a_settled_claim_is_never_free)
{
    Steps steps;

    kill_at_each_instruction(
        steps, [&] { steps.settle(Steps::kClaim, steps.answer, 20000); },
        [&](bool died) {
            MemoryZone::ClaimReply found = steps.claim(Steps::kClaim);

            assert_int_equal(int(found.reply.verdict), int(Verdict::found));

            if (!died || found.value_size != kRecordHeadSize) {
                assert_true(steps.value(found) == steps.answer);
                assert_int_equal(found.reply.remaining, 20000);
            } else {
                assert_true(found.reply.token == steps.token);
                assert_int_equal(found.reply.remaining, 4000);
                assert_int_equal(int(steps.settle(Steps::kClaim, steps.answer, 20000)),
                                 int(Verdict::done));
            }
        });
}

// What was told to be kept is not undone by what its process leaves half done.
UNIT_TEST(a_result_that_replaces_a_claim_is_found)
{
    Steps steps;
    auto *told = static_cast<std::atomic<bool> *>(map_shared(sizeof(std::atomic<bool>)));

    kill_at_each_instruction(
        steps,
        [&] {
            steps.settle(Steps::kClaim, steps.answer, 20000);
            *told = true;
            steps.renew(Steps::kClaim, 1000);
        },
        [&](bool) {
            if (*told) {
                assert_true(steps.value(steps.claim(Steps::kClaim)) == steps.answer);
            }
        });
}

UNIT_TEST(a_released_claim_is_there_or_not)
{
    Steps steps;

    kill_at_each_instruction(
        steps, [&] { steps.release(Steps::kClaim); },
        [&](bool died) {
            MemoryZone::ClaimReply found = steps.claim(Steps::kClaim);

            if (died && found.reply.verdict == Verdict::found) {
                assert_true(found.reply.token == steps.token);
                assert_int_equal(found.reply.remaining, 4000);
            } else {
                assert_int_equal(int(found.reply.verdict), int(Verdict::claimed));
                assert_true(found.reply.token > steps.token);
            }
        });
}

UNIT_TEST(a_renewed_claim_has_its_old_end_or_its_new_one)
{
    Steps steps;

    kill_at_each_instruction(
        steps, [&] { steps.renew(Steps::kClaim, 7000); },
        [&](bool died) {
            MemoryZone::ClaimReply found = steps.claim(Steps::kClaim);

            assert_int_equal(int(found.reply.verdict), int(Verdict::found));
            if (!died || found.reply.remaining != 4000) {
                assert_int_equal(found.reply.remaining, 7000);
            }
        });
}

// How many claims there is space for in addition.
unsigned space_of(Steps &steps)
{
    std::vector<unsigned> claimed;

    for (unsigned n = 100; steps.claim(n).reply.verdict == Verdict::claimed; n++) {
        claimed.push_back(n);
    }
    assert_true(steps.zone.is_consistent());
    for (unsigned n : claimed) {
        assert_int_equal(int(steps.release(n)), int(Verdict::done));
    }
    return static_cast<unsigned>(claimed.size());
}

// The claim whose lease has expired, after a process was killed: whatever the kill has left, it is
// found, it has one block and no reserve, and its holder returns.
void check_held(Steps &steps, Millis remaining)
{
    MemoryZone::ClaimReply found = steps.claim(Steps::kHeld);

    assert_int_equal(int(found.reply.verdict), int(Verdict::found));
    assert_int_equal(found.reply.remaining, remaining);
    assert_true(claim_of(steps.value(found)) == claim_id(Steps::kHeld));
    assert_int_equal(int(steps.renew(Steps::kHeld, Steps::kHold + 700)), int(Verdict::done));
    assert_int_equal(steps.claim(Steps::kHeld).reply.remaining, Steps::kHold + 700);
    assert_true(steps.zone.is_consistent());
    assert_int_equal(int(steps.settle(Steps::kHeld, steps.answer, 20000)), int(Verdict::done));
    assert_true(steps.value(steps.claim(Steps::kHeld)) == steps.answer);
}

// Another key's call notices it.
UNIT_TEST(an_expired_lease_is_noticed_or_not)
{
    Steps steps;
    unsigned space = 0;

    steps.set();
    space = space_of(steps);

    kill_at_each_instruction(
        steps, [&] { steps.claim(Steps::kFree); },
        [&](bool) {
            steps.release(Steps::kFree);
            assert_int_equal(space_of(steps), space);
            check_held(steps, Steps::kHold - 500);
        });
}

UNIT_TEST(a_claim_that_is_renewed_after_its_lease_has_its_old_end_or_its_new_one)
{
    for (bool noticed : {false, true}) {
        Steps steps;
        unsigned space = 0;

        steps.noticed = noticed;
        steps.set();
        space = space_of(steps);

        kill_at_each_instruction(
            steps, [&] { steps.renew(Steps::kHeld, 600 + Steps::kHold); },
            [&](bool died) {
                Millis remaining = steps.claim(Steps::kHeld).reply.remaining;
                unsigned left = space_of(steps);

                // half a claim less: there is an odd number of blocks
                assert_true(left == space || left + 1 == space);

                if (!died || remaining != Steps::kHold - 500) {
                    assert_int_equal(remaining, Steps::kHold + 600);
                }
                check_held(steps, remaining);
            });
    }
}

UNIT_TEST(a_claim_that_is_settled_after_its_lease_is_never_free)
{
    for (bool noticed : {false, true}) {
        Steps steps;

        steps.noticed = noticed;
        kill_at_each_instruction(
            steps, [&] { steps.settle(Steps::kHeld, steps.answer, 30000); },
            [&](bool died) {
                MemoryZone::ClaimReply found = steps.claim(Steps::kHeld);

                assert_int_equal(int(found.reply.verdict), int(Verdict::found));

                if (died && found.value_size == kRecordHeadSize) {
                    check_held(steps, Steps::kHold - 500);
                } else {
                    assert_true(steps.value(found) == steps.answer);
                    assert_int_equal(found.reply.remaining, 30000);
                }
            });
    }
}

UNIT_TEST(a_claim_that_is_released_after_its_lease_is_there_or_not)
{
    for (bool noticed : {false, true}) {
        Steps steps;

        steps.noticed = noticed;
        kill_at_each_instruction(
            steps, [&] { steps.release(Steps::kHeld); },
            [&](bool died) {
                MemoryZone::ClaimReply found = steps.claim(Steps::kHeld);

                if (died && found.reply.verdict == Verdict::found) {
                    check_held(steps, Steps::kHold - 500);
                } else {
                    assert_int_equal(int(found.reply.verdict), int(Verdict::claimed));
                }
            });
    }
}

}  // namespace
