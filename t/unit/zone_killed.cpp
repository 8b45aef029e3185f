// Processes that share a zone are killed: at random instants, most of them while they hold
// its lock, and at each instruction of each call. What a call has said is compared with what
// is found afterwards.

#include "killed.h"

#include <new>

#include "zone/memory_zone.h"

using namespace idempotency;

namespace {

constexpr std::uint64_t kClock = 1700000000000000;
constexpr std::size_t kZoneSize = 2 * 1024 * 1024;
constexpr unsigned kKeys = 48;
constexpr unsigned kLargest = 16 * 1024;
constexpr Millis kLease = 40;

enum class Holds { nothing, claim, result };

struct State {
    Holds holds;
    Token token;  // 0: any, of a claim whose grant nobody has heard of
    Millis expires;
    unsigned size;
    char fill;
};

// What a key holds, and, while a call is under way, what it may hold instead.
struct Expected {
    State states[2];
    unsigned current;
    unsigned pending;
};

struct Shared {
    Lock lock;
    std::atomic<unsigned> calls;
    Fault fault;
    Expected keys[kKeys];
};

std::string claim_record()
{
    unsigned char out[kRecordHeadSize];
    RecordWriter writer(out, RecordHead{});

    writer.finish(KeyId{});
    return std::string(reinterpret_cast<char *>(out), writer.size());
}

class Worker {
public:
    Worker(Shared &shared, MemoryZone zone, unsigned seed)
        : shared_(shared), zone_(zone), random_(seed), record_(claim_record())
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
    State &begin(unsigned n)
    {
        Expected &key = shared_.keys[n];
        State &next = key.states[1 - key.current];

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
        const State &is = shared_.keys[n].states[shared_.keys[n].current];
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
        State &next = begin(n);

        if (!lives) {
            next = {Holds::claim, 0, now + kLease, 0, 0};
        }

        intend(n);
        MemoryZone::ClaimReply found = zone_.claim(id_of(n), record_, kLease, now, kClock);

        if (found.reply.verdict != (lives ? Verdict::found : Verdict::claimed)) {
            shared_.fault.complain(n, lives ? "was lost" : "could not be claimed");
        }

        next.token = found.reply.token;
        end(n, !lives);
    }

    void settle(unsigned n, Millis now)
    {
        State &next = begin(n);

        next.holds = Holds::result;
        next.expires = now + 1 + random_() % 200;
        next.size = random_() % kLargest;
        next.fill = static_cast<char>('a' + random_() % 26);

        std::string body(next.size, next.fill);
        std::string_view piece = body;

        intend(n);
        if (zone_.settle(id_of(n), next.token, Pieces{&piece, 1}, next.expires - now, now)
            != Verdict::done) {
            shared_.fault.complain(n, "a running claim could not be settled");
        }
        end(n, true);
    }

    void renew(unsigned n, Millis now)
    {
        State &next = begin(n);

        next.expires = now + kLease;
        intend(n);
        if (zone_.renew(id_of(n), next.token, kLease, now) != Verdict::done) {
            shared_.fault.complain(n, "a running claim could not be renewed");
        }
        end(n, true);
    }

    void release(unsigned n, Millis now)
    {
        State &next = begin(n);

        next.holds = Holds::nothing;
        intend(n);
        if (zone_.release(id_of(n), next.token, now) != Verdict::done) {
            shared_.fault.complain(n, "a running claim could not be released");
        }
        end(n, true);
    }

    Shared &shared_;
    MemoryZone zone_;
    std::mt19937 random_;
    std::string record_;
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
    unsigned calls() const { return shared_.calls; }

private:
    // The first call after a kill, and what the dead one may have left.
    void look(bool at_all)
    {
        Millis now = now_ms();

        zone_.renew(id_of(kKeys), 1, kLease, now);
        if (!zone_.is_consistent()) {
            shared_.fault.complain(0, "the zone is not sound");
        }

        for (unsigned n = 0; n < kKeys; n++) {
            within_call_ += shared_.keys[n].pending;
            if (at_all || shared_.keys[n].pending != 0) {
                check(n, now);
            }
        }

        if (!zone_.is_consistent()) {
            shared_.fault.complain(0, "the zone is not sound after it was looked at");
        }
    }

    void check(unsigned n, Millis now)
    {
        Expected &key = shared_.keys[n];
        MemoryZone::ClaimReply found = zone_.claim(id_of(n), record_, kLease, now, kClock);
        const State *seen = nullptr;

        for (unsigned i = 0; i <= key.pending && seen == nullptr; i++) {
            const State &state = key.states[i == 0 ? key.current : 1 - key.current];

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

        State is = *seen;

        if (found.reply.verdict == Verdict::claimed) {
            is = {Holds::claim, 0, now + kLease, 0, 0};
        }

        is.token = found.reply.token;
        key.states[0] = is;
        key.current = 0;
        key.pending = 0;
    }

    // A claim or a result is there until its time has come, to the millisecond.
    bool is_of(const State &state, const MemoryZone::ClaimReply &found, Millis now)
    {
        bool lives = state.holds != Holds::nothing && state.expires > now;

        if (found.reply.verdict != Verdict::found) {
            return found.reply.verdict == Verdict::claimed && !lives;
        }

        if (!lives || found.reply.remaining != state.expires - now
            || (state.token != 0 && state.token != found.reply.token))
        {
            return false;
        }

        std::string value(found.value_size, '\0');

        zone_.read(found.entry, &value[0]);
        return state.holds == Holds::claim ? value.size() == record_.size()
                                           : value == std::string(state.size, state.fill);
    }

    MemoryZone zone_;
    Shared &shared_;
    std::string record_ = claim_record();
    unsigned within_call_ = 0;
    Victims victims_;
};

UNIT_TEST(the_zone_survives_those_who_use_it)
{
    Scene scene;
    unsigned kills = 0;

    for (; goes_on(kills, scene.within_call()); kills++) {
        scene.kill_one(kills);
    }

    std::printf("%u calls, %u kills, %u of them within the lock, %u within a call\n", scene.calls(),
                kills, scene.within_lock(), scene.within_call());
    assert_true(scene.within_call() >= kWithinCall);
}

// A zone in which one key has a claim, another a result, and one nothing.
struct Steps {
    static constexpr unsigned kClaim = 1, kResult = 2, kFree = 3, kExpired = 4;

    void *memory = map_shared(kZoneMinimum);
    std::vector<std::uint64_t> copy = std::vector<std::uint64_t>(kZoneMinimum / 8);
    MemoryZone zone{memory, kZoneMinimum};
    std::string record = claim_record();
    std::string result = std::string(1000, 'r');
    std::string answer = std::string(1200, 'a');
    Millis now = 1000000;
    Token token = 0;

    ~Steps() { munmap(memory, kZoneMinimum); }

    void set()
    {
        assert_true(zone.format());
        token = claim(kClaim).reply.token;
        settle(kResult, claim(kResult).reply.token, result, 10000);
        settle(kExpired, claim(kExpired).reply.token, result, 500);
        now += 1000;
    }

    MemoryZone::ClaimReply claim(unsigned n)
    {
        return zone.claim(id_of(n), record, 5000, now, kClock);
    }

    Verdict settle(unsigned n, Token of, std::string_view body, Millis lifetime)
    {
        return zone.settle(id_of(n), of, Pieces{&body, 1}, lifetime, now);
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
        zone.renew(id_of(99), 1, 1, now);
        assert_true(zone.is_consistent());

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
                assert_int_equal(found.value_size, steps.record.size());
            }
            steps.now += 5000;  // and ends with its lease
            assert_int_equal(int(steps.claim(Steps::kFree).reply.verdict), int(Verdict::claimed));
        });
}

UNIT_TEST(a_settled_claim_is_never_free)
{
    Steps steps;

    kill_at_each_instruction(
        steps, [&] { steps.settle(Steps::kClaim, steps.token, steps.answer, 20000); },
        [&](bool died) {
            MemoryZone::ClaimReply found = steps.claim(Steps::kClaim);

            assert_int_equal(int(found.reply.verdict), int(Verdict::found));
            assert_true(found.reply.token == steps.token);

            if (!died || found.value_size != steps.record.size()) {
                assert_true(steps.value(found) == steps.answer);
                assert_int_equal(found.reply.remaining, 20000);
            } else {
                assert_int_equal(found.reply.remaining, 4000);
                assert_int_equal(int(steps.settle(Steps::kClaim, steps.token, steps.answer, 20000)),
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
            steps.settle(Steps::kClaim, steps.token, steps.answer, 20000);
            *told = true;
            steps.zone.renew(id_of(Steps::kClaim), steps.token, 1000, steps.now);
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
        steps, [&] { steps.zone.release(id_of(Steps::kClaim), steps.token, steps.now); },
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
        steps, [&] { steps.zone.renew(id_of(Steps::kClaim), steps.token, 7000, steps.now); },
        [&](bool died) {
            MemoryZone::ClaimReply found = steps.claim(Steps::kClaim);

            assert_int_equal(int(found.reply.verdict), int(Verdict::found));
            if (!died || found.reply.remaining != 4000) {
                assert_int_equal(found.reply.remaining, 7000);
            }
        });
}

// A second one dies while it makes whole what the first has left.
UNIT_TEST(a_rebuild_that_dies_is_begun_again)
{
    Steps steps;

    kill_at_each_instruction(
        steps,
        [&] {
            steps.zone.mark_dirty();
            steps.zone.renew(id_of(Steps::kClaim), steps.token, 5000, steps.now);
        },
        [&](bool) {
            MemoryZone::ClaimReply found = steps.claim(Steps::kClaim);

            assert_int_equal(int(found.reply.verdict), int(Verdict::found));
            assert_true(found.reply.token == steps.token);
        });
}

}  // namespace
