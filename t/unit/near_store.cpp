// A near cache before the embedded engine: what it answers by itself, what it learns, and for how long.

#include "model.h"
#include "shared_memory.h"
#include "zone_secret.h"

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "zone/memory_zone.h"
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

ClaimNumber new_claim()
{
    static ClaimNumber last = 0;

    return ++last;
}

// A whole record, as a request or its end makes it.
std::string record(unsigned n, State state, ClaimNumber by = 1, Token token = 1,
                   const std::string &body = "")
{
    unsigned char out[256];
    RecordHead head;

    head.state = state;
    head.claim = claim_id(by);
    head.token = token;
    RecordWriter writer(out, head);

    if (state == State::kept) {
        writer.start_response(200, "200 OK");
        writer.add_body(body);
    }

    writer.finish(id_of(n));
    return std::string(reinterpret_cast<char *>(out), writer.size()) + body;
}

// The store behind: the embedded engine, which can be away, forget, and answer late.
class Behind final : public Store {
public:
    explicit Behind(Clock &clock)
        : clock_(clock), memory_(4 * 1024 * 1024 / 8), zone_(memory_.data(), memory_.size() * 8)
    {
        assert_true(zone_.format(kZoneSecret));
    }

    bool reachable = true;
    bool sent = false;  // what can't be reached may have been carried out
    bool late = false;  // answers are held until `answer`
    unsigned asked = 0;

    bool open() override { return true; }
    void close() override {}
    void watch(StoreWatcher *) override {}
    bool walk(WalkStep &) override { return true; }
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

    std::size_t held() const { return held_.size(); }

    void answer(std::size_t i)
    {
        Call *call = held_[i];

        held_.erase(held_.begin() + static_cast<long>(i));
        call->ended(*call);
    }

    // As an operator would.
    void forget(unsigned n)
    {
        // a result is not released; nothing is there for longer than it lasts
        zone_.settle(id_of(n), holders_[id_of(n).bytes], {}, 0, clock_.now);
        assert_true(peek(n).reply.verdict != Verdict::found);
    }

    void write(unsigned n, const std::string &value, Millis lifetime)
    {
        std::string_view piece = value;

        zone_.settle(id_of(n), holders_[id_of(n).bytes], {&piece, 1}, lifetime, clock_.now);
    }

    // What it holds, if anything.
    MemoryZone::ClaimReply peek(unsigned n)
    {
        ClaimNumber by = new_claim();
        MemoryZone::ClaimReply found =
            zone_.claim(id_of(n), record(n, State::running, by), 1, 0, clock_.now, kClock);

        if (found.reply.verdict == Verdict::claimed) {
            zone_.release(id_of(n), claim_id(by), clock_.now);
        }
        return found;
    }

    std::string value(const MemoryZone::ClaimReply &found)
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
            call.reply.sent = sent;
            return;
        }

        switch (call.kind) {
        case Call::Kind::claim: {
            MemoryZone::ClaimReply found = zone_.claim(call.id, *call.value.first, call.lifetime,
                                                       call.token, clock_.now, kClock);

            call.reply = found.reply;
            if (found.reply.verdict == Verdict::found) {
                char *buffer = call.allocate_value(call, found.value_size);

                if (buffer == nullptr) {
                    call.reply = Reply();
                    return;
                }
                zone_.read(found.entry, buffer);
                call.reply.value = {buffer, found.value_size};
            }
            break;
        }

        case Call::Kind::settle:
            call.reply.verdict =
                zone_.settle(call.id, call.claim, call.value, call.lifetime, clock_.now);
            break;

        case Call::Kind::release:
            call.reply.verdict = zone_.release(call.id, call.claim, clock_.now);
            break;

        case Call::Kind::renew:
            call.reply.verdict = zone_.renew(call.id, call.claim, call.lifetime, clock_.now);
            break;

        case Call::Kind::replace:
            call.reply.verdict = zone_.replace(call.id, call, clock_.now);
            break;
        }

        // of a claim, or of a late result
        if (call.reply.verdict == Verdict::claimed
            || (call.kind == Call::Kind::settle && call.reply.verdict == Verdict::done))
        {
            holders_[call.id.bytes] = call.claim;
        }
    }

    Clock &clock_;
    std::vector<std::uint64_t> memory_;
    MemoryZone zone_;
    std::deque<Call *> held_;
    std::map<decltype(KeyId::bytes), ClaimId> holders_;
};

using Memory = TestMemory<CacheZone>;

// A call with all that it needs.
struct Request : Call {
    ClaimNumber by;
    std::string result;
    std::string_view piece;
    std::string found;
    bool no_memory = false;
    unsigned ends = 0;

    Request(Kind what, unsigned n, ClaimNumber by, std::string bytes, Millis how_long)
        : by(by), result(std::move(bytes))
    {
        kind = what;
        id = id_of(n);
        claim = claim_id(by);
        piece = result;
        value = {&piece, 1};
        lifetime = how_long;
        allocate_value = [](Call &call, std::size_t size) -> char * {
            auto &self = static_cast<Request &>(call);

            self.found.assign(size, '\0');
            return self.no_memory ? nullptr : &self.found[0];
        };
        ended = [](Call &call) { static_cast<Request &>(call).ends++; };
    }

    Request(const Request &) = delete;

    // A claim with an id of its own.
    static std::unique_ptr<Request> new_claim_of(unsigned n, Millis lifetime = 30000)
    {
        ClaimNumber by = new_claim();

        return std::make_unique<Request>(Kind::claim, n, by, record(n, State::running, by),
                                         lifetime);
    }
};

// Another host over the same store is another of these.
struct Host {
    Behind &behind;
    Memory memory;
    NearStore store;
    ClaimNumber last = 0;

    Host(Behind &inner, Clock &clock, std::size_t size = 1024 * 1024)
        : behind(inner), memory(clock, size), store(inner, memory)
    {}

    Reply claim(unsigned n, std::string &value)
    {
        std::unique_ptr<Request> request = Request::new_claim_of(n);

        last = request->by;
        assert_true(store.start(*request));
        assert_int_equal(request->ends, 0);
        value = request->reply.verdict == Verdict::found ? std::string(request->reply.value) : "";
        return request->reply;
    }

    Reply claim(unsigned n)
    {
        std::string value;

        return claim(n, value);
    }

    Verdict settle(unsigned n, ClaimNumber by, const std::string &result,
                   Millis lifetime = 86400000)
    {
        Request request(Call::Kind::settle, n, by, result, lifetime);

        assert_true(store.start(request));
        return request.reply.verdict;
    }

    // A request and its answer.
    std::string keep(unsigned n, const std::string &body, Millis lifetime = 86400000)
    {
        Reply reply = claim(n);
        assert_int_equal(int(reply.verdict), int(Verdict::claimed));
        std::string result = record(n, State::kept, last, reply.token, body);
        assert_int_equal(int(settle(n, last, result, lifetime)), int(Verdict::done));
        return result;
    }

    bool has(unsigned n) { return memory.zone().look_up(id_of(n), memory.now()).found; }
};

struct Scene {
    Clock time;
    Behind behind{time};
    Host host{behind, time};

    // What it takes of the store behind to answer a claim that finds this.
    void finds(unsigned n, const std::string &expected, unsigned times_asked)
    {
        unsigned before = behind.asked;
        std::string value;

        assert_int_equal(int(host.claim(n, value).verdict), int(Verdict::found));
        assert_true(value == expected);
        assert_int_equal(behind.asked - before, times_asked);
    }
};

void expect(Verdict seen, Verdict expected) { assert_int_equal(int(seen), int(expected)); }

UNIT_TEST(what_was_settled_is_found_without_the_store)
{
    Scene s;
    std::string result = s.host.keep(1, "result");

    s.finds(1, result, 0);
    s.time.now += 1234;

    Reply reply = s.host.claim(1);
    assert_int_equal(reply.remaining, 86400000 - 1234);
    assert_true(reply.token == s.behind.peek(1).reply.token);

    reply = s.host.claim(2);
    std::string not_kept = record(2, State::not_kept, s.host.last, reply.token);
    expect(s.host.settle(2, s.host.last, not_kept), Verdict::done);
    s.finds(2, not_kept, 0);
}

UNIT_TEST(what_another_host_settled_is_asked_for_once)
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

UNIT_TEST(claims_and_unknown_outcomes_are_always_asked_for)
{
    Scene s;
    Reply claimed = s.host.claim(1);
    ClaimNumber by = s.host.last;

    for (int i = 0; i < 3; i++) {
        unsigned before = s.behind.asked;
        std::string value;
        Record read;

        expect(s.host.claim(1, value).verdict, Verdict::found);
        assert_int_equal(s.behind.asked - before, 1);
        assert_int_equal(int(read_record(value, id_of(1), read)), int(RecordFault::none));
        assert_int_equal(int(read.head.state), int(State::running));
    }

    std::string unknown = record(1, State::unknown, by, claimed.token);
    expect(s.host.settle(1, by, unknown, 30000), Verdict::done);
    s.finds(1, unknown, 1);
    s.finds(1, unknown, 1);
    assert_false(s.host.has(1));

    s.behind.reachable = false;
    expect(s.host.claim(1).verdict, Verdict::unavailable);
}

UNIT_TEST(what_the_store_did_not_take_is_not_kept_here)
{
    Scene s;
    Token token = s.host.claim(1).token;
    ClaimNumber by = s.host.last;

    expect(s.host.settle(1, by + 1, record(1, State::kept, by + 1, token, "late")), Verdict::lost);
    assert_false(s.host.has(1));
    s.behind.reachable = false;
    expect(s.host.settle(1, by, record(1, State::kept, by, token, "untold")), Verdict::unavailable);
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

UNIT_TEST(what_was_forgotten_is_gone_when_its_copy_is_no_longer_fresh)
{
    Scene s;
    std::string result = s.host.keep(1, "result");

    s.behind.forget(1);
    s.time.now += kNearFresh - 1;
    s.finds(1, result, 0);
    s.time.now += 1;
    Reply again = s.host.claim(1);
    ClaimNumber by = s.host.last;
    expect(again.verdict, Verdict::claimed);
    assert_false(s.host.has(1));

    // nor does an outage bring it back
    s.behind.reachable = false;
    expect(s.host.claim(1).verdict, Verdict::unavailable);
    s.behind.reachable = true;

    std::string second = record(1, State::kept, by, again.token, "second");
    expect(s.host.settle(1, by, second), Verdict::done);
    s.finds(1, second, 0);
}

UNIT_TEST(what_was_replaced_is_replaced_here)
{
    Scene s;
    std::string result = s.host.keep(1, "result"), other = record(1, State::not_kept, 1, 9);

    s.behind.write(1, other, 86400000);
    s.finds(1, result, 0);
    s.time.now += kNearFresh;
    s.finds(1, other, 1);
    s.finds(1, other, 0);

    // or claimed anew by another host
    s.behind.write(1, record(1, State::running, 1, 10), 100000);
    s.time.now += kNearFresh;
    s.finds(1, record(1, State::running, 1, 10), 1);
    assert_false(s.host.has(1));
}

UNIT_TEST(an_outage_is_survived_to_the_end_of_the_result)
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

// The store may have granted the claim: the caller has to release it.
UNIT_TEST(a_copy_replies_to_a_claim_that_may_have_been_granted)
{
    Scene s;
    std::string result = s.host.keep(1, "result"), value;

    s.behind.reachable = false;
    s.time.now += kNearFresh;

    for (bool sent : {true, false}) {
        s.behind.sent = sent;

        Reply reply = s.host.claim(1, value);

        expect(reply.verdict, Verdict::found);
        assert_true(value == result);
        assert_int_equal(reply.sent, sent);

        // without a copy
        reply = s.host.claim(2);
        expect(reply.verdict, Verdict::unavailable);
        assert_int_equal(reply.sent, sent);
    }

    // a fresh copy replies without the store
    s.behind.reachable = true;
    expect(s.host.claim(1).verdict, Verdict::found);
    s.behind.reachable = false;
    s.behind.sent = true;
    assert_false(s.host.claim(1).sent);
}

UNIT_TEST(renewals_and_their_verdicts_are_passed_on)
{
    Scene s;
    auto renew = [&](unsigned n, ClaimNumber by) {
        Request request(Call::Kind::renew, n, by, "", 40000);

        assert_true(s.host.store.start(request));
        return request.reply.verdict;
    };

    s.host.claim(1);
    expect(renew(1, s.host.last), Verdict::done);
    assert_int_equal(s.behind.peek(1).reply.remaining, 40000);
    expect(renew(1, s.host.last + 1), Verdict::lost);
    expect(renew(2, s.host.last), Verdict::gone);
    s.behind.reachable = false;
    expect(renew(1, s.host.last), Verdict::unavailable);
}

UNIT_TEST(what_is_no_whole_record_is_handed_on_and_not_kept)
{
    Scene s;
    std::string result = s.host.keep(1, "result");

    for (std::string bad :
         {std::string(), std::string("garbage"), result.substr(0, result.size() - 1), result + "x",
          record(2, State::kept, 1, 1, "of another key"), std::string(5000, 'K')})
    {
        s.behind.write(1, bad, 86400000);
        s.time.now += kNearFresh;
        s.finds(1, bad, 1);
        s.finds(1, bad, 1);
        assert_false(s.host.has(1));
        s.behind.write(1, result, 86400000);
        s.finds(1, result, 1);
        s.finds(1, result, 0);
    }

    // an end that nobody knows: the store has taken it away
    s.behind.write(1, result, 1);
    s.time.now += kNearFresh;
    expect(s.host.claim(1).verdict, Verdict::claimed);
}

UNIT_TEST(an_answer_counts_as_of_when_it_was_asked_for)
{
    Scene s;
    std::string result = Host(s.behind, s.time).keep(1, "result", 86400000);
    Request slow(Call::Kind::claim, 1, 3, record(1, State::running, 3), 30000);

    s.behind.late = true;
    assert_false(s.host.store.start(slow));
    s.behind.late = false;
    s.behind.forget(1);
    s.time.now += 700;
    s.behind.answer(0);
    assert_int_equal(slow.ends, 1);
    assert_true(slow.reply.value == result);

    s.time.now += kNearFresh - 701;
    s.finds(1, result, 0);
    s.time.now += 1;
    expect(s.host.claim(1).verdict, Verdict::claimed);
}

UNIT_TEST(a_late_answer_does_not_undo_a_newer_one)
{
    Scene s;
    Host other(s.behind, s.time);
    std::string first = other.keep(1, "first");
    Request slow(Call::Kind::claim, 1, 3, record(1, State::running, 3), 30000);

    s.behind.late = true;
    assert_false(s.host.store.start(slow));
    s.behind.late = false;
    s.behind.forget(1);
    s.time.now += 1;
    std::string second = s.host.keep(1, "second");
    s.time.now += 1;
    s.behind.answer(0);
    assert_true(slow.reply.value == first);
    s.finds(1, second, 0);
}

UNIT_TEST(calls_end_in_any_order_each_with_its_own)
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
            requests.push_back(Request::new_claim_of(n));
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

UNIT_TEST(without_memory_for_the_value_a_claim_is_unavailable)
{
    Scene s;
    std::string result = s.host.keep(1, "result");

    for (Millis passed : {Millis(0), kNearFresh}) {
        Request request(Call::Kind::claim, 1, 3, record(1, State::running, 3), 30000);

        s.time.now += passed;
        request.no_memory = true;
        assert_true(s.host.store.start(request));
        expect(request.reply.verdict, Verdict::unavailable);
    }
    s.finds(1, result, 1);
}

UNIT_TEST(what_has_no_place_here_is_asked_for)
{
    Clock time;
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

    // many more than it can hold: each is found, here or there
    for (unsigned n = 10; n < 400; n++) {
        host.keep(n, std::string(n * 10, 'y'));
    }
    for (unsigned n = 10; n < 400; n++) {
        std::string value;

        expect(host.claim(n, value).verdict, Verdict::found);
        assert_true(value.substr(value.size() - n * 10) == std::string(n * 10, 'y'));
    }
}

// One host with a near cache does as a store without.
class NearEngine : public Engine {
public:
    Outcome claim(unsigned n, ClaimNumber by, Token wanted, const std::string &claim,
                  Millis lifetime) override
    {
        Request request(Call::Kind::claim, n, by, claim, lifetime);

        request.token = wanted;
        assert_true(scene_.host.store.start(request));
        return {request.reply.verdict, request.reply.token, request.reply.remaining,
                std::string(request.reply.value)};
    }

    Verdict settle(unsigned n, ClaimNumber by, const std::string &result, Millis lifetime) override
    {
        return scene_.host.settle(n, by, result, lifetime);
    }

    Verdict release(unsigned n, ClaimNumber by) override
    {
        Request request(Call::Kind::release, n, by, "", 0);

        assert_true(scene_.host.store.start(request));
        return request.reply.verdict;
    }

    Verdict renew(unsigned n, ClaimNumber by, Millis lifetime) override
    {
        Request request(Call::Kind::renew, n, by, "", lifetime);

        assert_true(scene_.host.store.start(request));
        return request.reply.verdict;
    }

    Verdict replace(unsigned n, Call &call) override
    {
        call.id = id_of(n);
        assert_true(scene_.host.store.start(call));
        return call.reply.verdict;
    }

    void pass(Millis time) override { scene_.time.now += time; }

private:
    Scene scene_;
};

UNIT_TEST(a_near_cache_does_as_the_model)
{
    for (unsigned seed = 0; seed < 20; seed++) {
        NearEngine engine;

        follow_model(engine, seed, 5000);
    }
}

// Two hosts, an operator who forgets, outages, answers that come late: whatever a host finds was
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
        clock_.now += random_() % 4 == 0 ? random_() % 20000 : random_() % 50;
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
        default:
            request(n);
        }

        handle_reply();
    }

    unsigned near_hits() const { return near_hits_; }
    unsigned survived() const { return survived_; }

private:
    static constexpr unsigned kKeys = 5;

    // A result that is or was in the store.
    struct Kept {
        std::string value;
        Millis expires;
        Millis until;  // when it was forgotten, or its end
    };

    void end(unsigned n)
    {
        if (!kept_[n].empty()) {
            kept_[n].back().until = std::min(kept_[n].back().until, clock_.now);
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
        pending_.push_back({std::move(request), n, host, clock_.now, behind_.reachable, at_once});
    }

    // What the engine holds now is what counts, whenever its answer comes.
    void note_settled(const Request &request, unsigned n)
    {
        MemoryZone::ClaimReply found = behind_.peek(n);

        if (found.reply.verdict == Verdict::found && behind_.value(found) == request.result) {
            end(n);
            kept_[n].push_back({request.result, clock_.now + found.reply.remaining,
                                clock_.now + found.reply.remaining});
        }
    }

    void request(unsigned n)
    {
        unsigned asked = behind_.asked;

        begin(n, random_() % 2, Request::new_claim_of(n, 20000));
        near_ = behind_.asked == asked;
    }

    void handle_reply()
    {
        for (std::size_t i = 0; i < pending_.size();) {
            if (!pending_[i].ended && pending_[i].request->ends == 0) {
                i++;
                continue;
            }

            Pending done = std::move(pending_[i]);
            pending_.erase(pending_.begin() + static_cast<long>(i));
            handle_reply(done);
        }
    }

    void handle_reply(Pending &done)
    {
        const Reply &reply = done.request->reply;

        if (done.request->kind != Call::Kind::claim) {
            return;
        }

        if (reply.verdict == Verdict::claimed) {
            if (random_() % 4 != 0) {
                std::string result = record(
                    done.n, random_() % 5 == 0 ? State::not_kept : State::kept, done.request->by,
                    reply.token, std::string(random_() % 60, 'b') + std::to_string(reply.token));
                begin(done.n, done.host,
                      std::make_unique<Request>(Call::Kind::settle, done.n, done.request->by,
                                                result, 1 + random_() % 300000));
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
            assert_true(clock_.now + reply.remaining <= was->expires);
        }
    }

    std::mt19937 random_;
    Clock clock_;
    Behind behind_{clock_};
    Host hosts_[2] = {{behind_, clock_}, {behind_, clock_}};
    std::vector<Kept> kept_[kKeys];
    std::vector<Pending> pending_;
    bool near_ = false;
    unsigned near_hits_ = 0;
    unsigned survived_ = 0;
};

UNIT_TEST(whatever_happens_it_is_the_result_or_was_a_minute_ago)
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
