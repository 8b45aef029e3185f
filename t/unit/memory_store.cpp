// The store of one host: the calls of Store, over a zone that several workers share.

#include "model.h"
#include "shared_memory.h"

#include <ctime>
#include <string>
#include <vector>

#include "store/memory_store.h"

using namespace idempotency;

namespace {

using Memory = TestMemory<MemoryZone>;

KeyId id_of(unsigned n)
{
    KeyId id{};

    id.bytes[0] = static_cast<unsigned char>(n);
    id.bytes[31] = static_cast<unsigned char>(n >> 8);
    return id;
}

constexpr Millis kHold = 3600000;

std::string record(unsigned n, State state, ClaimNumber by, Token token = 0,
                   const std::string &body = "")
{
    unsigned char out[256];
    RecordHead head;

    head.state = state;
    head.claim = claim_id(by);
    head.token = token;
    head.hold = state == State::running ? kHold : 0;
    RecordWriter writer(out, head);

    if (state == State::kept) {
        writer.start_response(200, "200 OK");
        writer.add_body(body);
    }

    writer.finish(id_of(n));
    return std::string(reinterpret_cast<char *>(out), writer.size()) + body;
}

// A call whose value comes in two pieces, as that of a response does.
struct Request : Call {
    Request(Kind what, unsigned n, ClaimNumber of, std::string bytes, Millis time)
        : bytes(std::move(bytes))
    {
        std::string_view all = this->bytes;
        std::size_t first = what == Kind::settle ? all.size() / 2 : all.size();

        kind = what;
        id = id_of(n);
        claim = claim_id(of);
        pieces[0] = all.substr(0, first);
        pieces[1] = all.substr(first);
        value = {pieces, what == Kind::settle ? std::size_t(2) : std::size_t(1)};
        lifetime = time;
        allocate_value = [](Call &call, std::size_t size) -> char * {
            auto &self = static_cast<Request &>(call);

            self.allocations++;
            self.found.assign(size, '\0');
            return self.out_of_memory ? nullptr : &self.found[0];
        };
        ended = [](Call &) { fail_msg("a call that has ended in `start` is not ended again"); };
    }

    Request(const Request &) = delete;

    std::string bytes;
    std::string_view pieces[2];
    std::string found;
    unsigned allocations = 0;
    bool out_of_memory = false;
};

// Two workers that share a zone.
struct Scene {
    explicit Scene(std::size_t size = 256 * 1024) : memory(clock, size) {}

    Reply run(MemoryStore &worker, Request &request)
    {
        request.reply.sent = true;  // of an earlier call
        assert_true(worker.start(request));
        assert_false(memory.locked());
        assert_false(request.reply.sent);
        return request.reply;
    }

    // A claim with an id of its own, the number `last`.
    Outcome claim(MemoryStore &worker, unsigned n, Millis lease = 30000)
    {
        ++last;
        Request request(Call::Kind::claim, n, last, record(n, State::running, last), lease + kHold);
        Reply reply = run(worker, request);

        assert_int_equal(request.allocations, reply.verdict == Verdict::found);
        assert_int_equal(reply.value.size(), request.found.size());
        return {reply.verdict, reply.token, reply.remaining, std::string(reply.value)};
    }

    Verdict settle(MemoryStore &worker, unsigned n, ClaimNumber by, const std::string &result,
                   Millis lifetime = 86400000)
    {
        Request request(Call::Kind::settle, n, by, result, lifetime);

        return run(worker, request).verdict;
    }

    Verdict release(MemoryStore &worker, unsigned n, ClaimNumber by)
    {
        Request request(Call::Kind::release, n, by, "", 0);

        return run(worker, request).verdict;
    }

    Verdict renew(MemoryStore &worker, unsigned n, ClaimNumber by, Millis lifetime)
    {
        Request request(Call::Kind::renew, n, by, "", lifetime);

        return run(worker, request).verdict;
    }

    Clock clock;
    ClaimNumber last = 0;
    Memory memory;
    MemoryStore one{memory};
    MemoryStore other{memory};
};

void expect(Verdict seen, Verdict expected) { assert_int_equal(int(seen), int(expected)); }

UNIT_TEST(a_claim_of_one_worker_excludes_the_others)
{
    Scene s;
    Outcome first = s.claim(s.one, 1);

    expect(first.verdict, Verdict::claimed);
    s.clock.now += 1000;

    Outcome second = s.claim(s.other, 1);
    Record seen;

    expect(second.verdict, Verdict::found);
    assert_true(second.token == first.token);
    assert_int_equal(second.remaining, 29000 + kHold);
    assert_int_equal(int(read_record(second.value, id_of(1), seen)), int(RecordFault::none));
    assert_int_equal(int(seen.head.state), int(State::running));
    assert_true(seen.head.token == first.token);
    assert_true(seen.head.claim == claim_id(1));

    expect(s.claim(s.other, 2).verdict, Verdict::claimed);
}

UNIT_TEST(a_result_is_found_by_each_worker)
{
    Scene s(1024 * 1024);
    Token token = s.claim(s.one, 1).token;

    // one block, several, and many
    for (std::size_t size : {0, 300, 5000, 100000}) {
        std::string result = record(1, State::kept, 1, token, std::string(size, 'x'));

        expect(s.settle(s.one, 1, 1, result, 5000), Verdict::done);
        s.clock.now += 1000;

        for (MemoryStore *worker : {&s.one, &s.other}) {
            Outcome found = s.claim(*worker, 1);

            expect(found.verdict, Verdict::found);
            assert_true(found.value == result);
            assert_true(found.token == token);
            assert_int_equal(found.remaining, 4000);
        }
    }

    s.clock.now += 4000;
    expect(s.claim(s.other, 1).verdict, Verdict::claimed);
}

UNIT_TEST(a_released_key_is_free)
{
    Scene s;
    Token token = s.claim(s.one, 1).token;

    expect(s.release(s.other, 1, 2), Verdict::lost);
    expect(s.release(s.one, 1, 1), Verdict::done);
    expect(s.release(s.one, 1, 1), Verdict::lost);

    Outcome next = s.claim(s.other, 1);

    expect(next.verdict, Verdict::claimed);
    assert_true(next.token > token);
    expect(s.settle(s.one, 1, 1, record(1, State::kept, 1, token)), Verdict::lost);
}

UNIT_TEST(tokens_are_microseconds_of_unix_time)
{
    Scene s;
    Token before = Token(std::time(nullptr)) * 1000000;
    Token first = s.claim(s.one, 1).token;
    Token second = s.claim(s.other, 2).token;

    assert_in_range(first, before, before + 60 * 1000000ull);
    assert_true(second > first);
}

UNIT_TEST(a_claim_is_renewed_and_claimed_again)
{
    Scene s;
    Token token = s.claim(s.one, 1, 1000).token;

    s.clock.now += 900;
    expect(s.renew(s.one, 1, 1, 2000 + kHold), Verdict::done);
    expect(s.renew(s.one, 1, 7, 2000 + kHold), Verdict::lost);
    assert_int_equal(s.claim(s.other, 1).remaining, 2000 + kHold);

    s.clock.now += 2000 + kHold;
    expect(s.renew(s.one, 1, 1, 2000 + kHold), Verdict::gone);

    Request again(Call::Kind::claim, 1, 1, record(1, State::running, 1), 1000 + kHold);

    again.token = token;
    expect(s.run(s.one, again).verdict, Verdict::claimed);
    assert_true(again.reply.token == token);
    expect(s.renew(s.one, 1, 1, 2000 + kHold), Verdict::done);
    assert_true(s.claim(s.other, 1).token == token);
}

UNIT_TEST(an_expired_lease_is_an_unknown_outcome_until_its_holder_returns)
{
    Scene s;
    Token token = s.claim(s.one, 1, 1000).token;

    s.clock.now += 1000;

    Outcome found = s.claim(s.other, 1);

    expect(found.verdict, Verdict::found);
    assert_int_equal(found.remaining, kHold);
    assert_true(hold_of(found.value) == kHold);

    std::string unknown = record(1, State::unknown, 1, token);
    std::string result = record(1, State::kept, 1, token, "body");

    expect(s.settle(s.one, 1, 1, unknown, kHold), Verdict::done);
    assert_true(s.claim(s.other, 1).value == unknown);
    expect(s.release(s.one, 1, 1), Verdict::lost);
    expect(s.settle(s.one, 1, 1, result), Verdict::done);
    assert_true(s.claim(s.other, 1).value == result);
}

UNIT_TEST(a_claim_without_memory_for_what_it_finds_is_unavailable)
{
    Scene s;
    Token token = s.claim(s.one, 1).token;
    std::string result = record(1, State::kept, 1, token, "body");
    Request request(Call::Kind::claim, 1, 2, record(1, State::running, 2), 30000);

    expect(s.settle(s.one, 1, 1, result), Verdict::done);
    request.out_of_memory = true;
    expect(s.run(s.other, request).verdict, Verdict::unavailable);
    assert_true(s.claim(s.other, 1).value == result);
}

UNIT_TEST(a_full_zone_refuses_claims_and_large_results)
{
    Scene s(kZoneMinimum);
    unsigned n = 0;

    for (;; n++) {
        Outcome claim = s.claim(s.one, n);

        if (claim.verdict != Verdict::claimed) {
            expect(claim.verdict, Verdict::full);
            break;
        }
    }

    // key N has the claim N + 1
    assert_true(n > 10);
    expect(s.settle(s.one, 0, 1, record(0, State::kept, 1, 5, std::string(5000, 'x'))),
           Verdict::full);
    expect(s.settle(s.one, 0, 1, record(0, State::not_kept, 1, 5)), Verdict::done);
    expect(s.claim(s.other, 0).verdict, Verdict::found);
}

UNIT_TEST(figures_are_those_of_the_zone)
{
    Scene s;
    StoreFigures empty = s.one.figures();

    assert_string_equal(empty.engine, "memory");
    assert_true(empty.up);
    assert_int_equal(empty.memory.keys, 0);
    assert_int_equal(empty.memory.used, 0);
    assert_int_equal(empty.memory.size, empty.memory.free_blocks * kZoneBlockSize);
    assert_true(empty.memory.size > 240 * 1024 && empty.memory.size < 256 * 1024);
    assert_int_equal(empty.near.size, 0);

    Token token = s.claim(s.one, 1).token;

    s.claim(s.one, 2);
    s.settle(s.one, 1, 1, record(1, State::kept, 1, token, std::string(1000, 'x')));

    StoreFigures some = s.other.figures();

    // a claim of one block, and a result of three: 408, 504 and some more bytes
    assert_int_equal(some.memory.keys, 2);
    assert_int_equal(some.memory.used, 4 * kZoneBlockSize);
    assert_int_equal(some.memory.free_blocks, empty.memory.free_blocks - 4);
    assert_false(s.memory.locked());
}

// Random calls of two workers.
class StoreEngine : public Engine {
public:
    StoreEngine() : scene_(2 * 1024 * 1024)
    {
        keys = 50;
        longest = 20000;
    }

    Outcome claim(unsigned n, ClaimNumber by, Token wanted, const std::string &record,
                  Millis lifetime) override
    {
        Request request(Call::Kind::claim, n, by, record, lifetime);

        request.token = wanted;

        Reply reply = scene_.run(worker(), request);

        return {reply.verdict, reply.token, reply.remaining, std::string(reply.value)};
    }

    Verdict settle(unsigned n, ClaimNumber by, const std::string &record, Millis lifetime) override
    {
        return scene_.settle(worker(), n, by, record, lifetime);
    }

    Verdict release(unsigned n, ClaimNumber by) override { return scene_.release(worker(), n, by); }

    Verdict renew(unsigned n, ClaimNumber by, Millis lifetime) override
    {
        return scene_.renew(worker(), n, by, lifetime);
    }

    Verdict replace(unsigned n, Call &call) override
    {
        call.id = id_of(n);
        assert_true(worker().start(call));
        return call.reply.verdict;
    }

    void pass(Millis time) override { scene_.clock.now += time; }

private:
    MemoryStore &worker() { return ++calls_ % 3 == 0 ? scene_.other : scene_.one; }

    Scene scene_;
    unsigned calls_ = 0;
};

UNIT_TEST(the_store_does_as_the_model)
{
    for (unsigned seed = 0; seed < 10; seed++) {
        StoreEngine engine;

        follow_model(engine, seed, 10000);
    }
}

}  // namespace
