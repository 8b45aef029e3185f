// A near cache in front of the embedded engine: which calls it replies to, which results it stores, and for how long.

#include "model.h"
#include "records.h"

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "store/memory_zone.h"
#include "store/near_store.h"

using namespace idempotency;

namespace {

constexpr std::uint64_t kClock = 1700000000000000;

KeyId id_of(unsigned n)
{
    KeyId id{};

    id.bytes[0] = static_cast<unsigned char>(n);
    id.bytes[31] = static_cast<unsigned char>(n >> 8);
    return id;
}

std::string record(unsigned n, State state, Token token = 1, const std::string &body = "")
{
    return record_of(id_of(n), state, token, body, 0, "200 OK");
}

class Time {
public:
    Millis now = 1000000;
};

// The store behind: the embedded engine, which can be unavailable, lose keys, and reply late.
class Behind final : public Store {
public:
    explicit Behind(Time &time) : time_(time), memory_(4 * 1024 * 1024 / 8), zone_(memory_.data(), memory_.size() * 8)
    {
        assert_true(zone_.format());
    }

    bool reachable = true;
    bool late = false;              // replies are held until `answer`
    unsigned asked = 0;

    bool open() override { return true; }
    void close() override {}
    void watch(StoreWatcher *) override {}
    StoreFigures figures() override { return {}; }

    bool start(Call &call) override
    {
        asked++;
        run(call);

        if (late) {
            held_.push_back(&call);
            return false;
        }
        return true;
    }

    void renew(const Lease *leases, std::size_t count) override
    {
        for (std::size_t i = 0; i < count; i++) {
            zone_.renew(leases[i].id, leases[i].token, leases[i].length, time_.now);
        }
    }

    std::size_t held() const { return held_.size(); }

    void answer(std::size_t i)
    {
        Call *call = held_[i];

        held_.erase(held_.begin() + static_cast<long>(i));
        call->ended(*call);
    }

    // As an operator could delete a key.
    void forget(unsigned n)
    {
        Token token = peek(n).reply.token;

        // a result can't be released; no copy exists after its expiry
        zone_.settle(id_of(n), token, {}, 0, time_.now);
        assert_true(peek(n).reply.verdict != Verdict::found);
    }

    void write(unsigned n, const std::string &value, Millis lifetime)
    {
        std::string_view piece = value;

        zone_.settle(id_of(n), peek(n).reply.token, {&piece, 1}, lifetime, time_.now);
    }

    // The stored value, if any.
    MemoryZone::Found peek(unsigned n)
    {
        MemoryZone::Found found = zone_.claim(id_of(n), record(n, State::running), 1, time_.now, kClock);

        if (found.reply.verdict == Verdict::claimed) {
            zone_.release(id_of(n), found.reply.token, time_.now);
        }
        return found;
    }

    std::string value(const MemoryZone::Found &found)
    {
        std::string out(found.value_size, '\0');

        zone_.read(found.entry, &out[0]);
        return out;
    }

private:
    void run(Call &call)
    {
        call.reply = Reply();

        if (!reachable) {
            return;
        }

        switch (call.kind) {
        case Call::Kind::claim: {
            MemoryZone::Found found = zone_.claim(call.id, *call.value.first, call.lifetime, time_.now, kClock);

            call.reply = found.reply;
            if (found.reply.verdict == Verdict::found) {
                char *room = call.room(call, found.value_size);

                if (room == nullptr) {
                    call.reply = Reply();
                    return;
                }
                zone_.read(found.entry, room);
                call.reply.value = {room, found.value_size};
            }
            break;
        }

        case Call::Kind::settle:
            call.reply.verdict = zone_.settle(call.id, call.token, call.value, call.lifetime, time_.now);
            break;

        case Call::Kind::release:
            call.reply.verdict = zone_.release(call.id, call.token, time_.now);
            break;
        }
    }

    Time &time_;
    std::vector<std::uint64_t> memory_;
    MemoryZone zone_;
    std::deque<Call *> held_;
};

class Memory final : public NearMemory {
public:
    Memory(Time &time, std::size_t size) : time_(time), memory_(size / 8)
    {
        assert_true(zone().format());
    }

    CacheZone lock() override
    {
        assert_false(locked_);
        locked_ = true;
        return zone();
    }

    void unlock() override { locked_ = false; }
    Millis now() const override { return time_.now; }
    CacheZone zone() { return CacheZone(memory_.data(), memory_.size() * 8); }

private:
    Time &time_;
    std::vector<std::uint64_t> memory_;
    bool locked_ = false;
};

// A call with all that it needs.
struct Request : Call {
    std::string claim;
    std::string result;
    std::string_view piece;
    std::string found;
    bool no_room = false;
    unsigned ends = 0;

    Request(Kind what, unsigned n, Token of, std::string bytes, Millis how_long) : result(std::move(bytes))
    {
        kind = what;
        id = id_of(n);
        token = of;
        piece = result;
        value = {&piece, 1};
        lifetime = how_long;
        room = [](Call &call, std::size_t size) -> char * {
            auto &self = static_cast<Request &>(call);

            self.found.assign(size, '\0');
            return self.no_room ? nullptr : &self.found[0];
        };
        ended = [](Call &call) { static_cast<Request &>(call).ends++; };
    }

    Request(const Request &) = delete;
};

// Another host over the same store is another of these.
struct Host {
    Behind &behind;
    Memory memory;
    NearStore store;

    Host(Behind &inner, Time &time, std::size_t size = 1024 * 1024) : behind(inner), memory(time, size), store(inner, memory) {}

    Reply claim(unsigned n, std::string &value)
    {
        Request request(Call::Kind::claim, n, 0, record(n, State::running), 30000);

        assert_true(store.start(request));
        assert_int_equal(request.ends, 0);
        value = request.reply.verdict == Verdict::found ? std::string(request.reply.value) : "";
        return request.reply;
    }

    Reply claim(unsigned n)
    {
        std::string value;

        return claim(n, value);
    }

    Verdict settle(unsigned n, Token token, const std::string &result, Millis lifetime = 86400000)
    {
        Request request(Call::Kind::settle, n, token, result, lifetime);

        assert_true(store.start(request));
        return request.reply.verdict;
    }

    // A request and its response.
    std::string keep(unsigned n, const std::string &body, Millis lifetime = 86400000)
    {
        Reply reply = claim(n);
        assert_int_equal(int(reply.verdict), int(Verdict::claimed));
        std::string result = record(n, State::kept, reply.token, body);
        assert_int_equal(int(settle(n, reply.token, result, lifetime)), int(Verdict::done));
        return result;
    }

    bool has(unsigned n) { return memory.zone().look_up(id_of(n), memory.now()).found; }
};

struct Scene {
    Time time;
    Behind behind{time};
    Host host{behind, time};

    // A claim finds this value, with so many calls to the store behind.
    void finds(unsigned n, const std::string &expected, unsigned times_asked)
    {
        unsigned before = behind.asked;
        std::string value;

        assert_int_equal(int(host.claim(n, value).verdict), int(Verdict::found));
        assert_true(value == expected);
        assert_int_equal(behind.asked - before, times_asked);
    }

    // The reply of the store behind is still to come.
    void starts_before_the_key_is_forgotten(Request &slow)
    {
        behind.late = true;
        assert_false(host.store.start(slow));
        behind.late = false;
        behind.forget(1);
    }
};

void expect(Verdict seen, Verdict expected) { assert_int_equal(int(seen), int(expected)); }

UNIT_TEST(a_settled_result_is_found_without_the_store)
{
    Scene s;
    std::string result = s.host.keep(1, "result");

    s.finds(1, result, 0);
    s.time.now += 1234;

    Reply reply = s.host.claim(1);
    assert_int_equal(reply.remaining, 86400000 - 1234);
    assert_true(reply.token == s.behind.peek(1).reply.token);

    reply = s.host.claim(2);
    std::string not_kept = record(2, State::not_kept, reply.token);
    expect(s.host.settle(2, reply.token, not_kept), Verdict::done);
    s.finds(2, not_kept, 0);
}

UNIT_TEST(a_result_of_another_host_is_requested_once)
{
    Scene s;
    Host other(s.behind, s.time);
    std::string result = other.keep(1, "result", 5000);

    s.time.now += 1000;
    s.finds(1, result, 1);
    s.time.now += 1000;
    s.finds(1, result, 0);
    assert_int_equal(s.host.claim(1).remaining, 3000);
}

UNIT_TEST(claims_and_unknown_outcomes_are_always_requested)
{
    Scene s;
    Reply claimed = s.host.claim(1);

    for (int i = 0; i < 3; i++) {
        unsigned before = s.behind.asked;
        std::string value;
        Record read;

        expect(s.host.claim(1, value).verdict, Verdict::found);
        assert_int_equal(s.behind.asked - before, 1);
        assert_int_equal(int(read_record(value, id_of(1), read)), int(RecordFault::none));
        assert_int_equal(int(read.head.state), int(State::running));
    }

    std::string unknown = record(1, State::unknown, claimed.token);
    expect(s.host.settle(1, claimed.token, unknown, 30000), Verdict::done);
    s.finds(1, unknown, 1);
    s.finds(1, unknown, 1);
    assert_false(s.host.has(1));

    s.behind.reachable = false;
    expect(s.host.claim(1).verdict, Verdict::unavailable);
}

UNIT_TEST(a_result_that_the_store_refused_is_not_cached)
{
    Scene s;
    Token token = s.host.claim(1).token;

    expect(s.host.settle(1, token + 1, record(1, State::kept, token + 1, "late")), Verdict::lost);
    assert_false(s.host.has(1));
    s.behind.reachable = false;
    expect(s.host.settle(1, token, record(1, State::kept, token, "untold")), Verdict::unavailable);
    assert_false(s.host.has(1));
}

UNIT_TEST(a_copy_is_confirmed_each_time_it_is_no_longer_fresh)
{
    Scene s;
    std::string result = s.host.keep(1, "result");

    for (int i = 0; i < 5; i++) {
        s.time.now += kNearFresh - 1;
        s.finds(1, result, 0);
        s.time.now += 1;
        s.finds(1, result, 1);
        s.finds(1, result, 0);
    }
}

UNIT_TEST(a_deleted_result_is_not_found_when_its_copy_is_no_longer_fresh)
{
    Scene s;
    std::string result = s.host.keep(1, "result");

    s.behind.forget(1);
    s.time.now += kNearFresh - 1;
    s.finds(1, result, 0);
    s.time.now += 1;
    Reply again = s.host.claim(1);
    expect(again.verdict, Verdict::claimed);
    assert_false(s.host.has(1));

    // an outage does not bring it back
    s.behind.reachable = false;
    expect(s.host.claim(1).verdict, Verdict::unavailable);
    s.behind.reachable = true;

    std::string second = record(1, State::kept, again.token, "second");
    expect(s.host.settle(1, again.token, second), Verdict::done);
    s.finds(1, second, 0);
}

UNIT_TEST(a_replaced_result_is_replaced_in_the_cache)
{
    Scene s;
    std::string result = s.host.keep(1, "result"), other = record(1, State::not_kept, 9);

    s.behind.write(1, other, 86400000);
    s.finds(1, result, 0);
    s.time.now += kNearFresh;
    s.finds(1, other, 1);
    s.finds(1, other, 0);

    // or claimed anew by another host
    s.behind.write(1, record(1, State::running, 10), 100000);
    s.time.now += kNearFresh;
    s.finds(1, record(1, State::running, 10), 1);
    assert_false(s.host.has(1));
}

UNIT_TEST(a_result_is_found_during_an_outage_until_it_expires)
{
    Scene s;
    std::string result = s.host.keep(1, "result", 500000);

    s.behind.reachable = false;
    s.time.now += kNearFresh - 1;
    s.finds(1, result, 0);
    s.time.now += 1;
    s.finds(1, result, 1);
    s.time.now += 500000 - kNearFresh - 1;
    s.finds(1, result, 1);
    assert_int_equal(s.host.claim(1).remaining, 1);
    expect(s.host.claim(2).verdict, Verdict::unavailable);
    s.time.now += 1;
    expect(s.host.claim(1).verdict, Verdict::unavailable);
}

UNIT_TEST(an_incomplete_record_is_passed_on_and_not_cached)
{
    Scene s;
    std::string result = s.host.keep(1, "result");

    for (std::string bad : {std::string(), std::string("garbage"), result.substr(0, result.size() - 1), result + "x",
                            record(2, State::kept, 1, "of another key"), std::string(5000, 'K')}) {
        s.behind.write(1, bad, 86400000);
        s.time.now += kNearFresh;
        s.finds(1, bad, 1);
        s.finds(1, bad, 1);
        assert_false(s.host.has(1));
        s.behind.write(1, result, 86400000);
        s.finds(1, result, 1);
        s.finds(1, result, 0);
    }

    // the store has deleted the key without notice
    s.behind.write(1, result, 1);
    s.time.now += kNearFresh;
    expect(s.host.claim(1).verdict, Verdict::claimed);
}

UNIT_TEST(a_reply_counts_from_the_time_of_its_request)
{
    Scene s;
    std::string result = Host(s.behind, s.time).keep(1, "result", 86400000);
    Request slow(Call::Kind::claim, 1, 0, record(1, State::running), 30000);

    s.starts_before_the_key_is_forgotten(slow);
    s.time.now += 700;
    s.behind.answer(0);
    assert_int_equal(slow.ends, 1);
    assert_true(slow.reply.value == result);

    s.time.now += kNearFresh - 701;
    s.finds(1, result, 0);
    s.time.now += 1;
    expect(s.host.claim(1).verdict, Verdict::claimed);
}

UNIT_TEST(a_late_reply_does_not_replace_a_newer_one)
{
    Scene s;
    Host other(s.behind, s.time);
    std::string first = other.keep(1, "first");
    Request slow(Call::Kind::claim, 1, 0, record(1, State::running), 30000);

    s.starts_before_the_key_is_forgotten(slow);
    s.time.now += 1;
    std::string second = s.host.keep(1, "second");
    s.time.now += 1;
    s.behind.answer(0);
    assert_true(slow.reply.value == first);
    s.finds(1, second, 0);
}

UNIT_TEST(calls_end_in_any_order_with_their_own_replies)
{
    Scene s;
    std::vector<std::unique_ptr<Request>> requests;
    std::vector<std::string> results;

    for (unsigned n = 0; n < 20; n++) {
        results.push_back(Host(s.behind, s.time, 64 * 1024).keep(n, "result " + std::to_string(n)));
    }
    for (int round = 0; round < 3; round++) {
        s.time.now += kNearFresh;
        s.behind.late = true;
        requests.clear();
        for (unsigned n = 0; n < 20; n++) {
            requests.push_back(std::make_unique<Request>(Call::Kind::claim, n, 0, record(n, State::running), 30000));
            assert_false(s.host.store.start(*requests.back()));
        }
        for (unsigned n = 0; n < 20; n++) {
            s.behind.answer((n * 7) % s.behind.held());
        }
        s.behind.late = false;
        for (unsigned n = 0; n < 20; n++) {
            assert_int_equal(requests[n]->ends, 1);
            assert_true(requests[n]->reply.value == results[n]);
            s.finds(n, results[n], 0);
        }
    }
}

UNIT_TEST(a_call_without_memory_is_unavailable)
{
    Scene s;
    std::string result = s.host.keep(1, "result");

    for (Millis passed : {Millis(0), kNearFresh}) {
        Request request(Call::Kind::claim, 1, 0, record(1, State::running), 30000);

        s.time.now += passed;
        request.no_room = true;
        assert_true(s.host.store.start(request));
        expect(request.reply.verdict, Verdict::unavailable);
    }
    s.finds(1, result, 1);
}

UNIT_TEST(a_result_that_does_not_fit_is_requested)
{
    Time time;
    Behind behind(time);
    Host host(behind, time, kZoneMinimum);
    std::string large(20000, 'x');

    host.keep(1, large);
    for (int i = 0; i < 3; i++) {
        unsigned before = behind.asked;
        std::string value;

        expect(host.claim(1, value).verdict, Verdict::found);
        assert_true(value.size() > large.size());
        assert_int_equal(behind.asked - before, 1);
    }

    // many more results than fit: each is found in the cache or in the store
    for (unsigned n = 10; n < 400; n++) {
        host.keep(n, std::string(n * 10, 'y'));
    }
    for (unsigned n = 10; n < 400; n++) {
        std::string value;

        expect(host.claim(n, value).verdict, Verdict::found);
        assert_true(value.substr(value.size() - n * 10) == std::string(n * 10, 'y'));
    }
}

// One host with a near cache behaves like a store without it.
class NearEngine : public Engine {
public:
    Outcome claim(unsigned n, const std::string &claim, Millis lease) override
    {
        Request request(Call::Kind::claim, n, 0, claim, lease);

        assert_true(scene_.host.store.start(request));
        return {request.reply.verdict, request.reply.token, request.reply.remaining, std::string(request.reply.value)};
    }

    Verdict settle(unsigned n, Token by, const std::string &result, Millis lifetime) override
    {
        return scene_.host.settle(n, by, result, lifetime);
    }

    Verdict release(unsigned n, Token by) override
    {
        Request request(Call::Kind::release, n, by, "", 0);

        assert_true(scene_.host.store.start(request));
        return request.reply.verdict;
    }

    void renew(unsigned n, Token by, Millis lease) override
    {
        Lease renewed;

        renewed.id = id_of(n);
        renewed.token = by;
        renewed.length = lease;
        scene_.host.store.renew(&renewed, 1);
    }

    void pass(Millis time) override { scene_.time.now += time; }

private:
    Scene scene_;
};

UNIT_TEST(a_near_cache_behaves_like_the_model)
{
    follow_model_in_runs<NearEngine>(20, 5000);
}

// Two hosts, deletions by an operator, outages, late replies, killed processes: each found result was
// in the store within the last kNearFresh, or the store can't be reached; and it ends no later than it does there.
class Life {
public:
    explicit Life(unsigned seed) : random_(seed) {}

    ~Life()
    {
        while (behind_.held() > 0) {
            behind_.answer(0);
        }
    }

    void step()
    {
        time_.now += random_() % 4 == 0 ? random_() % 20000 : random_() % 50;
        unsigned n = random_() % kKeys;

        switch (random_() % 12) {
        case 0:
            if (behind_.peek(n).reply.verdict == Verdict::found) {
                end(n);
                behind_.forget(n);
            }
            break;
        case 1:
            behind_.reachable = random_() % 3 != 0;
            break;
        case 2:
            behind_.late = random_() % 2 == 0;
            break;
        case 3:
        case 4:
            if (behind_.held() > 0) {
                behind_.answer(random_() % behind_.held());
            }
            break;
        case 5:
            if (random_() % 10 == 0) {
                hosts_[random_() % 2].memory.zone().pretend_killed();
            }
            break;
        default:
            request(n);
        }

        heed();
    }

    unsigned near_hits() const { return near_hits_; }
    unsigned survived() const { return survived_; }

private:
    static constexpr unsigned kKeys = 5;

    // A result that is or was in the store.
    struct Kept {
        std::string value;
        Millis expires;
        Millis until;       // when it was forgotten, or its end
    };

    void end(unsigned n)
    {
        if (!kept_[n].empty()) {
            kept_[n].back().until = std::min(kept_[n].back().until, time_.now);
        }
    }

    struct Pending {
        std::unique_ptr<Request> request;
        unsigned n;
        unsigned host;
        Millis at;
        bool reachable;
        bool ended;
    };

    void begin(unsigned n, unsigned host, std::unique_ptr<Request> request)
    {
        Request &started = *request;
        bool at_once = hosts_[host].store.start(started);

        if (started.kind == Call::Kind::settle) {
            note_settled(started, n);
        }
        pending_.push_back({std::move(request), n, host, time_.now, behind_.reachable, at_once});
    }

    // The value that the engine holds now counts, whenever its reply arrives.
    void note_settled(const Request &request, unsigned n)
    {
        MemoryZone::Found found = behind_.peek(n);

        if (found.reply.verdict == Verdict::found && behind_.value(found) == request.result) {
            end(n);
            kept_[n].push_back({request.result, time_.now + found.reply.remaining, time_.now + found.reply.remaining});
        }
    }

    void request(unsigned n)
    {
        unsigned asked = behind_.asked;

        begin(n, random_() % 2, std::make_unique<Request>(Call::Kind::claim, n, 0, record(n, State::running), 20000));
        near_ = behind_.asked == asked;
    }

    void heed()
    {
        for (std::size_t i = 0; i < pending_.size(); ) {
            if (!pending_[i].ended && pending_[i].request->ends == 0) {
                i++;
                continue;
            }

            Pending done = std::move(pending_[i]);
            pending_.erase(pending_.begin() + static_cast<long>(i));
            heed(done);
        }
    }

    void heed(Pending &done)
    {
        const Reply &reply = done.request->reply;

        if (done.request->kind != Call::Kind::claim) {
            return;
        }

        if (reply.verdict == Verdict::claimed) {
            if (random_() % 4 != 0) {
                std::string result = record(done.n, random_() % 5 == 0 ? State::not_kept : State::kept, reply.token,
                                            std::string(random_() % 60, 'b') + std::to_string(reply.token));
                begin(done.n, done.host,
                      std::make_unique<Request>(Call::Kind::settle, done.n, reply.token, result, 1 + random_() % 300000));
            }
            return;
        }

        if (reply.verdict != Verdict::found || reply.value[kStateOffset] == 'R') {
            return;
        }

        const Kept *was = nullptr;

        for (const Kept &kept : kept_[done.n]) {
            if (kept.value == reply.value) {
                was = &kept;
            }
        }

        assert_non_null(was);
        near_hits_ += near_;

        // it held when the call was begun, or a minute before
        if (was->until + kNearFresh <= done.at) {
            survived_++;
            assert_true(was->expires > done.at);
            assert_false(done.reachable);
        }
        if (done.ended) {
            assert_true(time_.now + reply.remaining <= was->expires);
        }
    }

    std::mt19937 random_;
    Time time_;
    Behind behind_{time_};
    Host hosts_[2] = {{behind_, time_}, {behind_, time_}};
    std::vector<Kept> kept_[kKeys];
    std::vector<Pending> pending_;
    bool near_ = false;
    unsigned near_hits_ = 0;
    unsigned survived_ = 0;
};

UNIT_TEST(a_found_result_is_or_was_in_the_store_within_a_minute)
{
    unsigned near_hits = 0, survived = 0;

    for (unsigned seed = 0; seed < 40; seed++) {
        Life life(seed);

        for (int i = 0; i < 5000; i++) {
            life.step();
        }
        near_hits += life.near_hits();
        survived += life.survived();
    }

    std::printf("%u found here, %u of what was forgotten in an outage\n", near_hits, survived);
    assert_true(near_hits > 1000 && survived > 10);
}

}  // namespace
