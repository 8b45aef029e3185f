// All interleavings of a few hosts that claim, renew, settle and release one key, over a network that delays commands
// arbitrarily and loses replies, with crashes and passing time between any two steps. `carry_out` and `check`
// contain the required properties.

#include "model.h"

#include <array>
#include <deque>
#include <tuple>
#include <unordered_set>

using namespace idempotency;

namespace {

constexpr Millis kLease = 2, kLifetime = 2;  // ticks
constexpr std::size_t kHosts = 3, kStrays = 1;

enum class What : unsigned char { nothing, claim, settle, release, renew };

struct Command {
    What what = What::nothing;
    Token token = 0;
    char value = 0;

    bool operator<(const Command &other) const
    {
        return std::tie(what, token, value) < std::tie(other.what, other.token, other.value);
    }
};

enum class Phase : unsigned char {
    idle,
    sent,      // its command is on the way
    answered,  // its reply is on the way
    running,   // its request is at the application, by the claim `command.token`
};

struct Host {
    Phase phase = Phase::idle;
    Verdict verdict = Verdict::unavailable;
    Command command;

    bool operator<(const Host &other) const
    {
        return std::tie(phase, verdict, command)
               < std::tie(other.phase, other.verdict, other.command);
    }
};

// The promises of the verdicts so far, separate from the model.
struct Promise {
    Token token = 0;
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
    Token last = 0;
    std::array<Host, kHosts> hosts;
    std::array<Command, kStrays> strays;  // on the way, no call waits for them
    Promise claim, result;
};

std::string packed(const World &world)
{
    std::string out;
    auto put = [&](auto value) { out += static_cast<char>(value); };
    auto put_command = [&](const Command &c) { put(c.what), put(c.token), put(c.value); };

    put(world.key.holds), put(world.key.token), put(world.key.left), put(world.key.value),
        put(world.last);

    // hosts are interchangeable
    auto hosts = world.hosts;
    auto strays = world.strays;

    std::sort(hosts.begin(), hosts.end());
    std::sort(strays.begin(), strays.end());

    for (const Host &host : hosts) {
        put(host.phase), put(host.verdict), put_command(host.command);
    }

    for (const Command &stray : strays) {
        put_command(stray);
    }

    for (const Promise &promise : {world.claim, world.result}) {
        put(promise.token), put(promise.left), put(promise.value);
    }

    return out;
}

// The store executes a command; each verdict is compared with those before.
Verdict carry_out(World &world, Command &command)
{
    Promise &claim = world.claim, &result = world.result;
    Token token = command.token;
    Verdict verdict = Verdict::unavailable;

    switch (command.what) {
    case What::claim:
        verdict = world.key.claim(world.last + 1, 0, kLease);

        // the key is taken exactly as long as a claim or a result is promised
        assert_int_equal(int(verdict), int(claim.left > 0 || result.left > 0 ? Verdict::found
                                                                             : Verdict::claimed));

        if (verdict == Verdict::claimed) {
            assert_true(world.key.token > world.last);
            command.token = ++world.last;
            claim = {world.last, kLease, 0};
        }
        break;

    case What::settle:
        verdict = world.key.settle(token, command.value, kLifetime);

        if (verdict == Verdict::done) {
            assert_true(claim.left == 0 || claim.token == token);
            assert_true(result.left == 0
                        || (result.token == token && result.value == command.value));
            claim = {};
            result = {token, kLifetime, command.value};
        } else {
            // a result is refused only if another claim has followed its claim
            assert_true((claim.left > 0 && claim.token > token)
                        || (result.left > 0 && result.token != token));
        }
        break;

    case What::release:
    case What::renew: {
        bool runs = claim.left > 0 && claim.token == token;

        verdict = command.what == What::release ? world.key.release(token)
                                                : world.key.renew(token, kLease);
        assert_int_equal(int(verdict), int(runs ? Verdict::done : Verdict::lost));

        if (runs) {
            claim = command.what == What::release ? Promise() : Promise{token, kLease, 0};
        }
        break;
    }

    case What::nothing:
        break;
    }

    return verdict;
}

// The properties of every state.
void check(World world)
{
    using Holds = ModelKey<char>::Holds;
    const ModelKey<char> &key = world.key;

    assert_false(world.claim.left > 0 && world.result.left > 0);
    assert_int_equal(key.holds == Holds::claim, world.claim.left > 0);
    assert_int_equal(key.holds == Holds::result, world.result.left > 0);

    if (key.holds == Holds::claim) {
        assert_true(key.token == world.claim.token && key.left == world.claim.left
                    && key.left <= kLease);
    } else if (key.holds == Holds::result) {
        assert_true(key.value == world.result.value && key.left == world.result.left);
    }

    // if all hosts are dead now, the key is free once what it holds has ended
    world.key.pass(std::max(kLease, kLifetime));
    assert_true(world.key.claim(world.last + 1, 0, kLease) == Verdict::claimed);
}

class Search {
public:
    Search(std::size_t hosts, Token claims, std::size_t strays)
        : hosts_(hosts), claims_(claims), strays_(strays)
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
        next.claim.pass();
        next.result.pass();
        reach(next);

        for (std::size_t i = 0; i < hosts_; i++) {
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
        Host &host = next.hosts[i];

        switch (host.phase) {
        case Phase::idle:
            if (world.last < claims_) {
                send(world, i, {What::claim, 0, 0});
            }
            return;

        case Phase::running:
            send(world, i, {What::settle, host.command.token, 'a'});
            send(world, i, {What::settle, host.command.token, 'b'});
            send(world, i, {What::release, host.command.token, 0});

            // no call waits for the reply to a renewal
            if (Command *stray = free_stray(next)) {
                *stray = {What::renew, host.command.token, 0};
                reach(next);
            }
            break;

        case Phase::sent:
            host.verdict = carry_out(next, host.command);
            host.phase = Phase::answered;
            reach(next);

            // given up, or its host crashes, while the command is on its way
            next = world;

            if (Command *stray = free_stray(next)) {
                *stray = host.command;
                hear(next, i, Verdict::unavailable);
                host = {};
                reach(next);
            }
            break;

        case Phase::answered:
            hear(world, i, host.verdict);
            hear(world, i, Verdict::unavailable);
            break;
        }

        // a crash
        next = world;
        host = {};
        reach(next);
    }

    void send(World world, std::size_t i, const Command &command)
    {
        world.hosts[i] = {Phase::sent, Verdict::unavailable, command};
        reach(world);
    }

    void hear(World world, std::size_t i, Verdict verdict)
    {
        Command command = world.hosts[i].command;

        if (verdict == Verdict::claimed) {
            world.hosts[i].phase = Phase::running;
            world.hosts[i].verdict = Verdict::unavailable;
            command.what = What::nothing;
            world.hosts[i].command = command;
            reach(world);
            return;
        }

        // an outcome without a reply is recorded again, unchanged
        if (verdict == Verdict::unavailable && command.what != What::claim) {
            send(world, i, command);
        }

        world.hosts[i] = {};
        reach(world);
    }

    std::size_t hosts_;
    Token claims_;
    std::size_t strays_;
    std::deque<World> open_;
    std::unordered_set<std::string> seen_;
};

// The search covers the interesting states and ends.
UNIT_TEST(two_hosts_and_a_stray_command)
{
    std::size_t states = Search(2, 4, 1).run();

    print_message("%zu states\n", states);
    assert_in_range(states, 10000, 10000000);
}

UNIT_TEST(three_hosts)
{
    std::size_t states = Search(3, 3, 0).run();

    print_message("%zu states\n", states);
    assert_in_range(states, 10000, 10000000);
}

}  // namespace
