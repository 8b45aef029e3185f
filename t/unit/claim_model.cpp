// All interleavings of a few workers that claim, renew, settle and release one key, over a
// network that loses messages and delays them past everything, with crashes and the passing
// of time between any two steps.
//
// What must be true in each of them:
//
//   - The verdicts of the store agree with each other (`carry_out`).
//   - The application does not run the request a second time as long as the first execution
//     is guarded: by its claim (lease and hold), or by its result.  It may run again if its
//     claim was released (`begin_execution`).
//   - A claim is used only within its lease, so the store still has it.
//   - When all workers are idle and no message is under way, no claim is left, unless a
//     worker has crashed (`check`).
//   - If all workers crash, the key is free after the longest lifetime.

#include "model.h"

#include <array>
#include <deque>
#include <tuple>
#include <unordered_set>

using namespace idempotency;

namespace {

// In ticks.
constexpr Millis kLease = 2, kHold = 2, kLifetime = 3;
constexpr std::size_t kWorkers = 3, kStrays = 1;

enum class What : unsigned char { nothing, claim, settle, release, renew };

struct Command {
    What what = What::nothing;
    ClaimNumber claim = 0;
    char value = 0;

    bool operator<(const Command &other) const
    {
        return std::tie(what, claim, value) < std::tie(other.what, other.claim, other.value);
    }
};

enum class Phase : unsigned char {
    idle,
    sent,     // the command is under way
    replied,  // its reply is
    running,  // the request is at the application
};

struct Worker {
    Phase phase = Phase::idle;
    Verdict verdict = Verdict::unavailable;
    Command command;
    Millis asked = 0;    // ticks since the claim was sent
    bool alone = false;  // when the command was sent, no older one of this claim was under way

    bool operator<(const Worker &other) const
    {
        return std::tie(phase, verdict, command, asked, alone)
               < std::tie(other.phase, other.verdict, other.command, other.asked, other.alone);
    }
};

// For how long something has been promised, kept apart from the model.
struct Promise {
    ClaimNumber claim = 0;
    Millis left = 0;
    char value = 0;

    void pass()
    {
        if (left <= 1) {
            *this = {};
        } else {
            left--;
        }
    }
};

struct World {
    ModelKey<char> key;
    ClaimNumber last = 0;
    bool crashed = false;
    std::array<Worker, kWorkers> workers;
    std::array<Command, kStrays> strays;  // under way, and no worker waits for the reply
    Promise claim, result;                // as the verdicts have said
    Promise guard;                        // of the last execution
};

std::string packed(const World &world)
{
    std::string out;
    auto put = [&](auto value) { out += static_cast<char>(value); };
    auto put_command = [&](const Command &c) { put(c.what), put(c.claim), put(c.value); };

    put(world.key.holds), put(world.key.claim_number), put(world.key.left), put(world.key.value);
    put(world.last), put(world.crashed);

    // workers differ in nothing but what they do
    auto workers = world.workers;
    auto strays = world.strays;

    std::sort(workers.begin(), workers.end());
    std::sort(strays.begin(), strays.end());

    for (const Worker &worker : workers) {
        put(worker.phase), put(worker.verdict), put(worker.asked), put(worker.alone);
        put_command(worker.command);
    }

    for (const Command &stray : strays) {
        put_command(stray);
    }

    for (const Promise &promise : {world.claim, world.result, world.guard}) {
        put(promise.claim), put(promise.left), put(promise.value);
    }

    return out;
}

// The store carries a command out; every verdict has to agree with those before.
Verdict carry_out(World &world, const Command &command)
{
    Promise &claim = world.claim, &result = world.result, &guard = world.guard;
    ClaimNumber by = command.claim;
    Verdict verdict = Verdict::unavailable;

    switch (command.what) {
    case What::claim: {
        bool taken = claim.left > 0 || result.left > 0;

        verdict = world.key.claim(by, by, 0, kLease + kHold);
        assert_int_equal(int(verdict), int(taken ? Verdict::found : Verdict::claimed));

        if (verdict == Verdict::claimed) {
            claim = {by, kLease + kHold, 0};
        }
        break;
    }

    case What::settle: {
        bool of_other =
            (claim.left > 0 && claim.claim != by) || (result.left > 0 && result.claim != by);

        verdict = world.key.settle(by, by, command.value, kLifetime);
        assert_int_equal(int(verdict), int(of_other ? Verdict::lost : Verdict::done));

        if (verdict == Verdict::done) {
            claim = {};
            result = {by, kLifetime, command.value};

            if (guard.left == 0 || guard.claim == by) {
                guard = {by, kLifetime, 0};
            }
        }
        break;
    }

    case What::release:
    case What::renew: {
        bool runs = claim.left > 0 && claim.claim == by;

        verdict = command.what == What::release ? world.key.release(by)
                                                : world.key.renew(by, kLease + kHold);
        assert_int_equal(verdict == Verdict::done, runs);

        if (runs) {
            claim = command.what == What::release ? Promise() : Promise{by, kLease + kHold, 0};
        }

        if (guard.claim == by && command.what == What::release) {
            guard = {};
        } else if (guard.claim == by && runs) {
            guard.left = claim.left;
        }
        break;
    }

    case What::nothing:
        break;
    }

    return verdict;
}

void begin_execution(World &world, ClaimNumber by)
{
    assert_true(world.guard.left == 0);

    // used within its lease: the claim is still there, and not yet taken for lapsed
    assert_true(world.key.is_claim_of(by));
    assert_true(world.key.left > kHold);
    world.guard = {by, world.key.left, 0};
}

// What must be true in every state.
void check(World world)
{
    using Holds = ModelKey<char>::Holds;
    const ModelKey<char> &key = world.key;

    assert_false(world.claim.left > 0 && world.result.left > 0);
    assert_int_equal(key.holds == Holds::claim, world.claim.left > 0);
    assert_int_equal(key.holds == Holds::result, world.result.left > 0);

    bool quiet = std::all_of(world.workers.begin(), world.workers.end(),
                             [](const Worker &w) { return w.phase == Phase::idle; })
                 && std::all_of(world.strays.begin(), world.strays.end(),
                                [](const Command &c) { return c.what == What::nothing; });

    assert_false(quiet && !world.crashed && key.holds == Holds::claim);

    world.key.pass(std::max(kLease + kHold, kLifetime));
    assert_true(world.key.claim(99, 99, 0, 1) == Verdict::claimed);
}

class Search {
public:
    Search(std::size_t workers, ClaimNumber claims, std::size_t strays)
        : workers_(workers), claims_(claims), strays_(strays)
    {}

    std::size_t run()
    {
        reach(World());

        while (!open_.empty()) {
            World world = open_.front();

            open_.pop_front();
            check(world);
            step(world);
        }

        return seen_.size();
    }

private:
    void reach(const World &world)
    {
        if (seen_.insert(packed(world)).second) {
            open_.push_back(world);
        }
    }

    Command *free_stray(World &world) const
    {
        for (std::size_t i = 0; i < strays_; i++) {
            if (world.strays[i].what == What::nothing) {
                return &world.strays[i];
            }
        }

        return nullptr;
    }

    void step(const World &world)
    {
        World next = world;

        next.key.pass(1);

        for (Promise *promise : {&next.claim, &next.result, &next.guard}) {
            promise->pass();
        }
        for (Worker &worker : next.workers) {
            worker.asked = worker.phase == Phase::idle ? 0 : std::min(worker.asked + 1, kLease);
        }
        reach(next);

        for (std::size_t i = 0; i < workers_; i++) {
            step(world, i);
        }

        // it arrives after all, or never
        for (std::size_t i = 0; i < kStrays; i++) {
            if (world.strays[i].what != What::nothing) {
                next = world;
                carry_out(next, next.strays[i]);
                next.strays[i] = {};
                reach(next);

                next = world;
                next.strays[i] = {};
                reach(next);
            }
        }
    }

    void step(const World &world, std::size_t i)
    {
        World next = world;
        Worker &worker = next.workers[i];

        switch (worker.phase) {
        case Phase::idle:
            if (world.last < claims_) {
                next.last++;
                worker.asked = 0;
                send(next, i, {What::claim, next.last, 0});
            }
            return;

        case Phase::running:
            send(world, i, {What::settle, worker.command.claim, 'a'});
            send(world, i, {What::settle, worker.command.claim, 'u'});
            send(world, i, {What::release, worker.command.claim, 0});

            // a renewal, whose reply changes nothing
            if (Command *stray = free_stray(next)) {
                *stray = {What::renew, worker.command.claim, 0};
                reach(next);
            }
            break;

        case Phase::sent:
            worker.verdict = carry_out(next, worker.command);
            worker.phase = Phase::replied;
            reach(next);

            // the worker gives up while the command is under way
            next = world;

            if (Command *stray = free_stray(next)) {
                *stray = worker.command;
                handle_reply(next, i, Verdict::unavailable);
            }
            break;

        case Phase::replied:
            handle_reply(world, i, worker.verdict);
            handle_reply(world, i, Verdict::unavailable);
            break;
        }

        // a crash, with the command under way or not
        next = world;
        next.crashed = true;

        if (worker.phase == Phase::sent) {
            World late = next;

            if (Command *stray = free_stray(late)) {
                *stray = worker.command;
                late.workers[i] = {};
                reach(late);
            }
        }

        worker = {};
        reach(next);
    }

    static bool is_under_way(const World &world, ClaimNumber claim)
    {
        return std::any_of(world.strays.begin(), world.strays.end(), [&](const Command &c) {
            return c.what != What::nothing && c.claim == claim;
        });
    }

    void send(World world, std::size_t i, const Command &command)
    {
        Worker &worker = world.workers[i];

        worker.phase = Phase::sent;
        worker.verdict = Verdict::unavailable;
        worker.command = command;
        worker.alone = !is_under_way(world, command.claim);
        reach(world);
    }

    void handle_reply(World world, std::size_t i, Verdict verdict)
    {
        Worker &worker = world.workers[i];
        Command command = worker.command;

        if (command.what == What::claim && verdict == Verdict::claimed && worker.asked < kLease) {
            begin_execution(world, command.claim);
            worker.phase = Phase::running;
            worker.verdict = Verdict::unavailable;
            worker.command.what = What::nothing;
            reach(world);
            return;
        }

        // a grant that was lost or is too late is released by its id
        if (command.what == What::claim && verdict != Verdict::found) {
            send(world, i, {What::release, command.claim, 0});
            return;
        }

        // an outcome is told until the store confirms it, and a release once more as long as
        // an older command of this claim may arrive
        if (command.what != What::claim
            && (verdict == Verdict::unavailable
                || (command.what == What::release && !worker.alone)))
        {
            send(world, i, command);
            return;
        }

        worker = {};
        reach(world);
    }

    std::size_t workers_;
    ClaimNumber claims_;
    std::size_t strays_;
    std::deque<World> open_;
    std::unordered_set<std::string> seen_;
};

// The bounds show that the search gets somewhere, and ends.
UNIT_TEST(two_workers_and_a_stray_command)
{
    std::size_t states = Search(2, 3, 1).run();

    print_message("%zu states\n", states);
    assert_in_range(states, 10000, 10000000);
}

UNIT_TEST(three_workers)
{
    std::size_t states = Search(3, 3, 0).run();

    print_message("%zu states\n", states);
    assert_in_range(states, 10000, 10000000);
}

}  // namespace
