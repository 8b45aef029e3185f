// The store that seals, over a model of another: what each of the two sees, and
// that hosts whose keys are being changed never both hold one key.

#include "cmocka.h"

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model.h"
#include "shared_memory.h"
#include "store/memory_store.h"
#include "store/sealed_store.h"

using namespace idempotency;

namespace {

using Key = ModelKey<std::string>;

// What all hosts share.
struct Backend {
    std::map<std::string, Key> keys;
    Token clock = 1000;

    Key &operator[](const KeyId &id) { return keys[std::string(id.view())]; }

    std::size_t taken() const
    {
        return std::count_if(keys.begin(), keys.end(), [](const auto &each) {
            return each.second.holds != Key::Holds::nothing;
        });
    }
};

ClaimNumber number_of(const ClaimId &claim) { return wire::get_u64(claim.bytes.data() + 8); }

// What becomes of an inner call: it is not sent; it is sent and not carried out; it is carried out
// and its reply is lost.
enum class Failure { none, not_sent, not_done, reply_lost };

// A host's way there.  Calls wait to be let on where `held_back`.
class ModelStore final : public Store {
public:
    explicit ModelStore(Backend &backend) : backend(backend) {}

    bool open() override { return true; }
    void close() override {}
    void watch(StoreWatcher *) override {}
    bool walk(WalkStep &) override { return true; }
    StoreFigures figures() override { return {}; }

    bool start(Call &call) override
    {
        assert_int_equal(int(call.reply.verdict), int(Verdict::unavailable));

        if (held_back) {
            waiting.push_back(&call);
            return false;
        }

        execute(call);
        return true;
    }

    void let_on(std::size_t nth)
    {
        Call *call = waiting[nth];

        waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(nth));
        execute(*call);
        call->ended(*call);
    }

    Backend &backend;
    bool held_back = false;
    std::deque<Call *> waiting;
    std::function<Failure(const Call &)> fails;
    std::vector<Call::Kind> calls;

private:
    void execute(Call &call)
    {
        calls.push_back(call.kind);

        Failure failure = fails ? fails(call) : Failure::none;

        if (failure == Failure::none || failure == Failure::reply_lost) {
            carry_out(call);
        }

        if (failure != Failure::none) {
            call.reply = Reply{};
            call.reply.sent = failure != Failure::not_sent;
        }
    }

    void carry_out(Call &call)
    {
        Key &key = backend[call.id];
        std::string value;

        for (std::size_t i = 0; i < call.value.count; i++) {
            value += call.value.first[i];
        }

        switch (call.kind) {
        case Call::Kind::claim:
            claim(call, key, value);
            break;
        case Call::Kind::settle:
            assert_true(claim_of(value) == call.claim);
            call.reply.verdict =
                key.settle(number_of(call.claim), token_of(value), value, call.lifetime);
            break;
        case Call::Kind::release:
            call.reply.verdict = key.release(number_of(call.claim));
            break;
        case Call::Kind::renew:
            call.reply.verdict = key.renew(number_of(call.claim), call.lifetime);
            break;
        case Call::Kind::replace:
            call.reply.verdict =
                key.replace(std::string(call.seen), value.empty() ? 0 : number_of(claim_of(value)),
                            value, call.lifetime, call.most_remaining);
            break;
        }
    }

    void claim(Call &call, Key &key, const std::string &value)
    {
        Token token = call.token != 0 ? call.token : backend.clock++;

        if (call.only_looks_up()) {
            call.reply.verdict = key.holds == Key::Holds::nothing ? Verdict::gone : Verdict::found;
        } else {
            assert_true(claim_of(value) == call.claim);
            call.reply.verdict =
                key.claim(number_of(call.claim), token, with_token(value, token), call.lifetime);
        }

        if (call.reply.verdict == Verdict::gone) {
            return;
        }

        if (call.reply.verdict == Verdict::claimed) {
            call.reply.token = token;
            return;
        }

        char *place = call.allocate_value(call, key.value.size());

        if (place == nullptr) {
            call.reply.verdict = Verdict::unavailable;
            return;
        }

        std::copy(key.value.begin(), key.value.end(), place);
        call.reply.value = {place, key.value.size()};
        call.reply.token = key.token;
        call.reply.remaining = key.left;
    }
};

// `files`: the numbers of its keys, the one that seals first; 0: none.
class Host : SealedStore::Events {
public:
    Host(Backend &backend, std::initializer_list<int> files)
        : inner(backend), store(inner, keys, *this)
    {
        for (int file : files) {
            Secret secret;

            secret.bytes.fill(static_cast<unsigned char>(file));
            assert_int_equal(int(file == 0 ? keys.add_plain() : keys.add(secret)),
                             int(KeyRing::AddResult::added));
        }
    }

    KeyId stored_id(std::size_t nth, const KeyId &id)
    {
        KeyId out;

        assert_true(keys.derive_stored_id(nth, id, out));
        return out;
    }

    KeyRing keys;
    ModelStore inner;
    SealedStore store;
    std::vector<std::string> refusals;

private:
    void on_open_failed(const KeyId &, const char *why) override { refusals.push_back(why); }
};

KeyId raw_id(unsigned n)
{
    KeyId id{};

    id.bytes[0] = static_cast<unsigned char>(n);
    id.bytes[31] = 0x77;
    return id;
}

std::string record_of(const KeyId &id, State state, ClaimNumber by, Token token,
                      const std::string &body = "", unsigned char fingerprint = 0xab)
{
    unsigned char out[kLargestClaim];
    RecordHead head;

    head.state = state;
    head.claim = claim_id(by);
    head.token = token;
    head.fingerprint.bytes.fill(fingerprint);

    RecordWriter writer(out, head);

    if (state == State::kept) {
        writer.start_response(200, "");
        writer.add_body(body);
    } else {
        writer.add_holder({4711, "web-1"});
    }

    writer.finish(id);
    return std::string(reinterpret_cast<char *>(out), writer.size()) + body;
}

// A caller, as an exchange is one.
struct Request : Call {
    explicit Request(const KeyId &key, unsigned char fingerprint = 0xab)
        : by(++last), fingerprint(fingerprint)
    {
        id = key;
        claim = claim_id(by);
        allocate_value = [](Call &call, std::size_t size) -> char * {
            auto &self = static_cast<Request &>(call);

            if (self.is_out_of_memory) {
                return nullptr;
            }
            self.place = std::make_unique<char[]>(size);
            return self.place.get();
        };
        ended = [](Call &call) {
            auto &self = static_cast<Request &>(call);

            assert_true(self.runs);
            self.runs = false;
            if (self.then) {
                self.then();
            }
        };
    }

    Request(const Request &) = delete;

    // True where it has ended.
    bool ask(Host &host, Kind what, const std::string &bytes, Millis time)
    {
        kind = what;
        record = bytes;
        pieces[0] = std::string_view(record).substr(0, kRecordHeadSize);
        pieces[1] = std::string_view(record).substr(pieces[0].size());
        value = {pieces, 2};
        lifetime = time;
        runs = true;

        bool has_ended = host.store.start(*this);

        runs = !has_ended;
        return has_ended;
    }

    bool claim_key(Host &host, Millis lease = 30)
    {
        token = 0;
        return ask(host, Kind::claim, record_of(id, State::running, by, 0, "", fingerprint), lease);
    }

    bool look_up(Host &host)
    {
        kind = Kind::claim;
        token = 0;
        value = {};
        runs = true;

        bool has_ended = host.store.start(*this);

        runs = !has_ended;
        return has_ended;
    }

    // With the token that it had.
    bool claim_again(Host &host)
    {
        return ask(host, Kind::claim, record_of(id, State::running, by, 0, "", fingerprint), 30);
    }

    bool settle(Host &host, State state, const std::string &body = "", Millis time = 1000)
    {
        return ask(host, Kind::settle, record_of(id, state, by, token, body, fingerprint), time);
    }

    bool release(Host &host) { return ask(host, Kind::release, "", 0); }
    bool renew(Host &host, Millis time) { return ask(host, Kind::renew, "", time); }

    // What the found record says; only after `found`.
    Record found() const
    {
        Record out;

        assert_int_equal(int(reply.verdict), int(Verdict::found));
        assert_int_equal(int(read_record(reply.value, id, out)), int(RecordFault::none));
        return out;
    }

    static inline ClaimNumber last = 0;

    ClaimNumber by;
    unsigned char fingerprint;
    std::string record;
    std::string_view pieces[2];
    std::unique_ptr<char[]> place;
    bool is_out_of_memory = false;
    bool runs = false;
    std::function<void()> then;
};

void expect(const Request &request, Verdict verdict)
{
    assert_int_equal(int(request.reply.verdict), int(verdict));
}

void take(Request &request, Host &host)
{
    assert_true(request.claim_key(host));
    expect(request, Verdict::claimed);
    assert_true(request.reply.token > 0);
    request.token = request.reply.token;
}

void keep(Request &request, Host &host, const std::string &body)
{
    assert_true(request.settle(host, State::kept, body));
    expect(request, Verdict::done);
}

// One key

UNIT_TEST(one_key_makes_one_call_of_each)
{
    Backend backend;
    Host host(backend, {1});
    Request first(raw_id(1)), second(raw_id(1));

    take(first, host);
    second.claim_key(host);
    assert_int_equal(int(second.found().head.state), int(State::running));
    assert_true(second.found().head.token == first.token);
    assert_true(second.found().head.claim == claim_id(first.by));
    assert_true(second.found().holder.host == "web-1");
    assert_true(second.reply.token == first.token);
    assert_true(second.reply.remaining == 30);

    keep(first, host, "the answer");
    second.claim_key(host);
    assert_true(second.found().body == "the answer");
    assert_true(second.found().head.token == first.token);
    assert_true(second.reply.remaining == 1000);

    Request other(raw_id(2));

    take(other, host);
    assert_true(other.release(host));
    expect(other, Verdict::done);
    assert_true(other.release(host));
    expect(other, Verdict::lost);

    using K = Call::Kind;
    const std::vector<K> expected = {K::claim, K::claim,   K::settle, K::claim,
                                     K::claim, K::release, K::release};

    assert_true(host.inner.calls == expected);
    assert_true(host.refusals.empty());
}

UNIT_TEST(the_inner_store_sees_neither_key_nor_record)
{
    Backend backend;
    Host host(backend, {1});
    Request request(raw_id(1));

    take(request, host);

    assert_int_equal(int(backend.keys.size()), 1);
    assert_true(backend.keys.begin()->first == host.stored_id(0, request.id).view());
    assert_true(backend.keys.begin()->first == host.store.stored_id(request.id).view());
    assert_true(backend.keys.begin()->second.value.find("\xab\xab\xab") == std::string::npos);

    keep(request, host, "the answer");
    assert_int_equal(int(backend.keys.size()), 1);
    assert_true(backend.keys.begin()->second.value.find("answer") == std::string::npos);
    assert_true(backend.keys.begin()->second.value.find("\xab\xab\xab") == std::string::npos);
}

UNIT_TEST(what_does_not_open_is_unreadable_and_told)
{
    Backend backend;
    Host host(backend, {1}), other(backend, {2});
    Request one(raw_id(1)), two(raw_id(2));

    for (Request *each : {&one, &two}) {
        take(*each, host);
        keep(*each, host, "the answer");
    }

    std::string &first = backend[host.stored_id(0, one.id)].value;
    std::string &second = backend[host.stored_id(0, two.id)].value;
    const std::string sound = first;

    struct Case {
        const char *why;
        std::string value;
    };

    std::string changed = sound;
    changed.back() = static_cast<char>(changed.back() ^ 1);

    Request foreign(raw_id(1));
    take(foreign, other);
    keep(foreign, other, "the answer");

    for (const Case &each : {Case{"of another key", second}, Case{"it was changed", changed},
                             Case{"not among", backend[other.stored_id(0, one.id)].value},
                             Case{"is not sealed", record_of(one.id, State::kept, 5, 5, "x")},
                             Case{"not a record", "hello, world"}, Case{"not a record", ""}})
    {
        first = each.value;
        Request again(raw_id(1));

        assert_true(again.claim_key(host));
        expect(again, Verdict::unreadable);
        assert_true(again.reply.value.empty());
        assert_true(host.refusals.back().find(each.why) != std::string::npos);
        assert_true(first == each.value);
    }

    assert_int_equal(int(host.refusals.size()), 6);
    first = sound;
    one.claim_key(host);
    assert_true(one.found().body == "the answer");
}

UNIT_TEST(calls_that_end_later_end_once)
{
    Backend backend;
    Host host(backend, {1, 2});

    host.inner.held_back = true;

    std::vector<std::unique_ptr<Request>> requests;

    for (unsigned i = 0; i < 600; i++) {
        requests.push_back(std::make_unique<Request>(raw_id(i % 256)));
        assert_false(requests.back()->claim_key(host));
    }

    while (!host.inner.waiting.empty()) {
        host.inner.let_on(host.inner.waiting.size() / 2);
    }

    for (const auto &request : requests) {
        assert_false(request->runs);
        assert_true(request->reply.verdict == Verdict::claimed
                    || request->reply.verdict == Verdict::found);
    }
}

UNIT_TEST(no_memory_is_unavailable)
{
    Backend backend;
    Host host(backend, {1, 2});
    Request first(raw_id(1)), second(raw_id(1));

    take(first, host);
    second.is_out_of_memory = true;
    second.claim_key(host);
    expect(second, Verdict::unavailable);
    assert_int_equal(int(backend.taken()), 2);
}

UNIT_TEST(large_results_are_whole)
{
    Backend backend;
    Host host(backend, {1});

    for (std::size_t size : {0u, 1u, 16000u, 17000u, 3000000u, 5u}) {
        Request request(raw_id(static_cast<unsigned>(size % 251)));
        std::string body(size, 'x');

        take(request, host);
        keep(request, host, body);
        request.claim_key(host);
        assert_true(request.found().body == body);
    }
}

// Several keys

UNIT_TEST(several_keys_are_taken_with_one_token)
{
    Backend backend;
    Host host(backend, {1, 2, 3});
    Request request(raw_id(1)), other(raw_id(1));

    take(request, host);
    assert_int_equal(int(backend.taken()), 3);
    for (std::size_t n = 0; n < 3; n++) {
        assert_true(backend[host.stored_id(n, request.id)].token == request.token);
        assert_true(backend[host.stored_id(n, request.id)].claim_number == request.by);
    }

    other.claim_key(host);
    assert_int_equal(int(other.found().head.state), int(State::running));
    assert_true(other.found().holder.host == "web-1");

    keep(request, host, "the answer");
    for (std::size_t n = 0; n < 3; n++) {
        assert_true(backend[host.stored_id(n, request.id)].holds == Key::Holds::result);
    }

    Request released(raw_id(2));

    take(released, host);
    assert_int_equal(int(backend.taken()), 6);
    released.release(host);
    expect(released, Verdict::done);
    assert_int_equal(int(backend.taken()), 3);
}

// Both orders of two keys: which of them comes first depends on their tags.  One
// of them may be that there is none yet, or no more.
template <class Test>
void with_two_keys(Test test)
{
    test(1, 2);
    test(2, 1);
    test(0, 1);
    test(1, 0);
}

UNIT_TEST(a_claim_of_a_neighbour_is_heeded)
{
    with_two_keys([](int mine, int other) {
        Backend backend;
        Host alone(backend, {mine}), both(backend, {mine, other});
        Request first(raw_id(1)), second(raw_id(1)), third(raw_id(1));

        take(first, alone);
        second.claim_key(both);
        assert_int_equal(int(second.found().head.state), int(State::running));
        assert_true(second.found().head.token == first.token);
        assert_int_equal(int(backend.taken()), 1);  // all else was given back

        first.release(alone);
        take(second, both);
        third.claim_key(alone);
        assert_true(third.found().head.token == second.token);
    });
}

UNIT_TEST(a_result_is_found_on_the_way_to_other_keys_and_back)
{
    with_two_keys([](int from, int to) {
        Backend backend;
        Host a(backend, {from}), b(backend, {from, to}), c(backend, {to, from}), d(backend, {to});
        Host *const hosts[] = {&a, &b, &c, &d};

        for (int i = 0; i < 4; i++) {
            Request request(raw_id(static_cast<unsigned>(i)));
            std::string body = "result " + std::to_string(i);

            take(request, *hosts[i]);
            keep(request, *hosts[i], body);

            for (int j = std::max(i - 1, 0); j <= std::min(i + 1, 3); j++) {
                std::size_t taken = backend.taken();
                Request retry(raw_id(static_cast<unsigned>(i)));

                retry.claim_key(*hosts[j]);
                assert_true(retry.found().body == body);
                assert_true(retry.reply.remaining == 1000);
                assert_int_equal(int(backend.taken()), int(taken));
            }
        }

        // what a host kept that seals with the new key is all that is left in the end
        Request retry(raw_id(2));

        retry.claim_key(d);
        assert_true(retry.found().body == "result 2");

        for (const Host *host : hosts) {
            assert_true(host->refusals.empty());
        }
    });
}

// Somebody is about to give back what he has: that hides no result.
UNIT_TEST(a_key_is_looked_up_under_every_stored_id)
{
    with_two_keys([](int mine, int other) {
        Backend backend;
        Host first_key(backend, {mine}), second_key(backend, {other}), both(backend, {mine, other});
        Request running(raw_id(2)), looks(raw_id(1));

        assert_true(looks.look_up(both));
        expect(looks, Verdict::gone);
        assert_int_equal(int(backend.taken()), 0);

        take(running, second_key);
        looks.id = raw_id(2);
        assert_true(looks.look_up(both));
        assert_int_equal(int(looks.found().head.state), int(State::running));
        assert_int_equal(int(backend.taken()), 1);

        for (Host *host : {&first_key, &second_key}) {
            Request request(raw_id(host == &first_key ? 3 : 4));

            take(request, *host);
            keep(request, *host, "result");
            looks.id = request.id;
            assert_true(looks.look_up(both));
            assert_int_equal(int(looks.found().head.state), int(State::kept));
        }
    });
}

UNIT_TEST(a_result_counts_more_than_a_claim)
{
    with_two_keys([](int mine, int other) {
        Backend backend;
        Host alone(backend, {mine}), both(backend, {other, mine});
        Request first(raw_id(1)), passing(raw_id(1), 0xcd), retry(raw_id(1));

        take(first, alone);
        keep(first, alone, "the answer");

        both.inner.held_back = true;
        assert_false(passing.claim_key(both));
        both.inner.let_on(0);
        both.inner.held_back = false;

        retry.claim_key(both);
        assert_true(retry.found().body == "the answer");

        while (!both.inner.waiting.empty()) {
            both.inner.let_on(0);
        }
        assert_true(passing.found().body == "the answer");
        assert_int_equal(int(backend.taken()), 1);
    });
}

UNIT_TEST(of_two_claims_that_of_the_request_is_told)
{
    with_two_keys([](int mine, int other) {
        Backend backend;
        Host alone(backend, {mine}), both(backend, {mine, other});
        Request first(raw_id(1)), passing(raw_id(1), 0xcd), retry(raw_id(1)),
            reuse(raw_id(1), 0xcd);

        take(first, alone);

        // it has another key, whichever comes first, when it meets the claim
        both.inner.held_back = true;
        assert_false(passing.claim_key(both));
        while (backend.taken() == 1) {
            both.inner.let_on(0);
        }
        both.inner.held_back = false;

        retry.claim_key(both);
        assert_true(retry.found().head.token == first.token);
        assert_true(retry.found().head.fingerprint.bytes[0] == 0xab);

        while (!both.inner.waiting.empty()) {
            both.inner.let_on(0);
        }
        reuse.claim_key(both);
        assert_true(reuse.found().head.fingerprint.bytes[0] == 0xab);
        assert_int_equal(int(backend.taken()), 1);
    });
}

UNIT_TEST(a_claim_that_fails_on_the_way_is_given_back)
{
    Backend backend;
    Host host(backend, {1, 2, 3});

    for (std::size_t n = 0; n < 3; n++) {
        Request request(raw_id(1));

        host.inner.fails = [&](const Call &call) {
            return call.kind == Call::Kind::claim && call.id == host.stored_id(n, request.id)
                       ? Failure::not_sent
                       : Failure::none;
        };
        request.claim_key(host);
        expect(request, Verdict::unavailable);
        assert_false(request.reply.sent);
        assert_int_equal(int(backend.taken()), 0);
    }

    // one that does not open stops it too
    Request other(raw_id(2));

    host.inner.fails = nullptr;
    backend[host.stored_id(2, other.id)].claim(7, 7, "garbage", 30);
    other.claim_key(host);
    expect(other, Verdict::unreadable);
    assert_int_equal(int(backend.taken()), 1);
    assert_int_equal(int(host.refusals.size()), 1);
}

UNIT_TEST(an_end_that_is_not_told_everywhere_is_told_again)
{
    Backend backend;
    Host host(backend, {1, 2});

    for (std::size_t n = 0; n < 2; n++) {
        for (bool keeps : {true, false}) {
            Request request(raw_id(static_cast<unsigned>(10 + 2 * n + keeps)));
            std::size_t before = backend.taken();

            take(request, host);
            host.inner.fails = [&](const Call &call) {
                return call.id == host.stored_id(n, request.id) ? Failure::not_done : Failure::none;
            };
            keeps ? request.settle(host, State::kept, "x") : request.release(host);
            expect(request, Verdict::unavailable);
            assert_true(request.reply.sent);

            host.inner.fails = nullptr;
            keeps ? request.settle(host, State::kept, "x") : request.release(host);
            expect(request, Verdict::done);
            assert_int_equal(int(backend.taken() - before), keeps ? 2 : 0);
        }
    }
}

UNIT_TEST(a_claim_that_is_lost_in_part_is_lost)
{
    Backend backend;
    Host host(backend, {1, 2});

    for (std::size_t n = 0; n < 2; n++) {
        Request request(raw_id(static_cast<unsigned>(n)));

        take(request, host);
        backend[host.stored_id(n, request.id)] = {Key::Holds::claim, 7, 7, 30, "of another"};
        request.settle(host, State::kept, "x");
        expect(request, Verdict::lost);
        assert_true(backend[host.stored_id(n, request.id)].token == 7);
    }
}

// Of the inner calls of a host with two keys, whose verdicts are given.
class TwoVerdicts final : public Store {
public:
    bool open() override { return true; }
    void close() override {}
    void watch(StoreWatcher *) override {}
    bool walk(WalkStep &) override { return true; }
    StoreFigures figures() override { return {}; }

    bool start(Call &call) override
    {
        call.reply.verdict = verdicts[calls++ % 2];
        call.reply.sent = call.reply.verdict == Verdict::unavailable;
        return true;
    }

    Verdict verdicts[2] = {};
    unsigned calls = 0;
};

UNIT_TEST(the_worst_verdict_counts)
{
    using V = Verdict;
    using K = Call::Kind;

    struct Case {
        K kind;
        V a, b, expected;
    };

    const Case cases[] = {
        {K::settle, V::done, V::done, V::done},
        {K::settle, V::done, V::lost, V::lost},
        {K::settle, V::full, V::lost, V::full},
        {K::replace, V::done, V::gone, V::done},
        {K::replace, V::gone, V::gone, V::gone},
        {K::replace, V::done, V::lost, V::lost},
        {K::replace, V::lost, V::gone, V::lost},
        {K::replace, V::done, V::unavailable, V::unavailable},
        {K::settle, V::full, V::refused, V::refused},
        {K::settle, V::lost, V::refused, V::refused},
        {K::settle, V::refused, V::unavailable, V::unavailable},
        {K::release, V::done, V::lost, V::done},
        {K::release, V::lost, V::lost, V::lost},
        {K::release, V::done, V::unavailable, V::unavailable},
        {K::renew, V::done, V::done, V::done},
        {K::renew, V::done, V::gone, V::gone},
        {K::renew, V::done, V::lost, V::lost},
        {K::renew, V::done, V::unavailable, V::unavailable},
        {K::renew, V::gone, V::unavailable, V::gone},
        {K::renew, V::lost, V::unavailable, V::lost},
        {K::renew, V::gone, V::lost, V::lost},
    };
    Backend backend;
    Host host(backend, {1, 2});
    TwoVerdicts inner;

    struct Ignore : SealedStore::Events {
        void on_open_failed(const KeyId &, const char *) override {}
    } ignore;

    SealedStore store(inner, host.keys, ignore);

    for (const Case &each : cases) {
        for (bool swapped : {false, true}) {
            Request request(raw_id(1));
            std::string bytes = record_of(request.id, State::not_kept, request.by, 5);
            std::string_view piece = bytes;

            request.kind = each.kind;
            request.value = {&piece, 1};
            inner.verdicts[0] = swapped ? each.b : each.a;
            inner.verdicts[1] = swapped ? each.a : each.b;
            assert_true(store.start(request));
            expect(request, each.expected);
            assert_int_equal(request.reply.sent, each.expected == V::unavailable);
        }
    }

    assert_int_equal(inner.calls % 2, 0);
}

UNIT_TEST(a_claim_that_may_have_been_granted_is_released_by_its_caller)
{
    for (std::initializer_list<int> files : {std::initializer_list<int>{1}, {1, 2, 3}}) {
        for (Failure failure : {Failure::not_done, Failure::reply_lost}) {
            for (std::size_t n = 0; n < files.size(); n++) {
                Backend backend;
                Host host(backend, files);
                Request request(raw_id(1)), next(raw_id(1));

                host.inner.fails = [&](const Call &call) {
                    return call.kind == Call::Kind::claim
                                   && call.id == host.stored_id(n, request.id)
                               ? failure
                               : Failure::none;
                };
                request.claim_key(host);
                expect(request, Verdict::unavailable);
                assert_true(request.reply.sent);
                assert_int_equal(int(backend.taken()), failure == Failure::reply_lost);

                host.inner.fails = nullptr;
                request.release(host);
                assert_int_equal(int(backend.taken()), 0);
                take(next, host);
            }
        }
    }
}

// It has found the claim of another, and can't release what it has claimed.
UNIT_TEST(a_claim_whose_release_failed_is_released_by_its_caller)
{
    for (Failure failure : {Failure::not_sent, Failure::not_done, Failure::reply_lost}) {
        for (std::size_t n = 0; n < 2; n++) {
            Backend backend;
            Host host(backend, {1, 2, 3});
            Request request(raw_id(1));

            backend[host.stored_id(2, request.id)] = {Key::Holds::claim, 7, 7, 30, "garbage"};
            host.inner.fails = [&](const Call &call) {
                return call.kind == Call::Kind::release && call.id == host.stored_id(n, request.id)
                           ? failure
                           : Failure::none;
            };
            request.claim_key(host);
            expect(request, Verdict::unavailable);
            assert_true(request.reply.sent);
            assert_int_equal(int(backend.taken()), failure == Failure::reply_lost ? 1 : 2);

            host.inner.fails = nullptr;
            request.release(host);
            assert_int_equal(int(backend.taken()), 1);
        }
    }
}

UNIT_TEST(what_is_gone_is_claimed_again)
{
    for (unsigned gone = 0; gone < 8; gone++) {
        Backend backend;
        Host host(backend, {1, 2, 3});
        Request request(raw_id(1)), other(raw_id(1));

        take(request, host);
        for (std::size_t n = 0; n < 3; n++) {
            if ((gone >> n & 1) != 0) {
                backend[host.stored_id(n, request.id)] = {};
            }
        }

        request.renew(host, 40);
        expect(request, gone == 0 ? Verdict::done : Verdict::gone);
        request.claim_again(host);

        // as in other stores: the key has a claim, its own
        if (gone == 0) {
            assert_true(request.found().head.claim == claim_id(request.by));
            assert_true(request.reply.token == request.token);
        } else {
            expect(request, Verdict::claimed);
            assert_true(request.reply.token == request.token);
        }

        for (std::size_t n = 0; n < 3; n++) {
            const Key &key = backend[host.stored_id(n, request.id)];

            assert_true(key.is_claim_of(request.by));
            assert_true(key.token == request.token);
        }

        other.claim_key(host);
        assert_true(other.found().head.claim == claim_id(request.by));
        keep(request, host, "the answer");
    }
}

// One is gone, one is there, and one has another claim, or a result: what is there stays.
UNIT_TEST(what_another_has_is_not_claimed_again)
{
    std::size_t order[] = {0, 1, 2};

    do {
        for (bool has_result : {false, true}) {
            Backend backend;
            Host host(backend, {1, 2, 3});
            Request request(raw_id(1)), other(raw_id(1));
            Key &gone = backend[host.stored_id(order[0], request.id)];
            Key &there = backend[host.stored_id(order[1], request.id)];
            Key &taken = backend[host.stored_id(order[2], request.id)];

            // by a request of a host that has only one of the keys
            take(other, host);
            if (has_result) {
                keep(other, host, "another answer");
            }

            Key of_other = taken;

            gone = there = taken = {};
            take(request, host);
            gone = {};
            taken = of_other;

            request.claim_again(host);
            assert_true(request.found().head.claim == claim_id(other.by));
            assert_int_equal(int(request.found().head.state),
                             int(has_result ? State::kept : State::running));
            assert_true(gone.holds == Key::Holds::nothing);
            assert_true(there.is_claim_of(request.by));
            assert_int_equal(taken.claim_number, other.by);

            // its result is kept where no other is
            request.settle(host, State::kept, "x");
            expect(request, Verdict::lost);
            assert_true(gone.holds == Key::Holds::result && gone.claim_number == request.by);
            assert_true(there.holds == Key::Holds::result && there.claim_number == request.by);
            assert_int_equal(taken.claim_number, other.by);
        }
    } while (std::next_permutation(order, order + 3));
}

UNIT_TEST(an_unknown_outcome_is_settled_by_its_holder)
{
    for (std::initializer_list<int> files : {std::initializer_list<int>{1}, {1, 2}}) {
        Backend backend;
        Host host(backend, files);
        Request request(raw_id(1)), other(raw_id(1));

        take(request, host);
        request.settle(host, State::unknown, "", 500);
        expect(request, Verdict::done);

        other.claim_key(host);
        assert_int_equal(int(other.found().head.state), int(State::unknown));
        assert_true(other.reply.remaining == 500);
        assert_true(other.reply.token == request.token);
        other.settle(host, State::kept, "of another");
        expect(other, Verdict::lost);

        request.renew(host, 30);
        expect(request, Verdict::lost);
        request.release(host);
        expect(request, Verdict::lost);
        keep(request, host, "the answer");
        other.claim_key(host);
        assert_true(other.found().body == "the answer");
    }
}

UNIT_TEST(a_holder_settles_what_is_free)
{
    Backend backend;
    Host host(backend, {1, 2});

    for (unsigned gone = 0; gone < 4; gone++) {
        Request request(raw_id(gone)), other(raw_id(gone));

        take(request, host);
        for (std::size_t n = 0; n < 2; n++) {
            if ((gone >> n & 1) != 0) {
                backend[host.stored_id(n, request.id)] = {};
            }
        }
        keep(request, host, "late");
        for (std::size_t n = 0; n < 2; n++) {
            assert_true(backend[host.stored_id(n, request.id)].holds == Key::Holds::result);
        }
        other.claim_key(host);
        assert_true(other.found().body == "late");
    }
}

UNIT_TEST(renewals_go_to_each_key)
{
    Backend backend;
    Host host(backend, {1, 2});
    Request request(raw_id(1));

    take(request, host);
    request.renew(host, 500);
    expect(request, Verdict::done);
    for (std::size_t n = 0; n < 2; n++) {
        assert_int_equal(int(backend[host.stored_id(n, request.id)].left), 500);
    }

    // what fails under one key does not stop it
    for (std::size_t n = 0; n < 2; n++) {
        host.inner.fails = [&](const Call &call) {
            return call.id == host.stored_id(n, request.id) ? Failure::not_done : Failure::none;
        };
        request.renew(host, 600 + n);
        expect(request, Verdict::unavailable);
        assert_true(request.reply.sent);
        assert_int_equal(int(backend[host.stored_id(1 - n, request.id)].left), int(600 + n));
    }
}

// Sealed records in a memory store, and random calls: a store as any other.
class SealedMemory : public Engine, SealedStore::Events {
public:
    explicit SealedMemory(std::initializer_list<int> files)
        : memory_(clock_, 4 * 1024 * 1024), inner_(memory_), store_(inner_, keys_, *this)
    {
        for (int file : files) {
            Secret secret;

            secret.bytes.fill(static_cast<unsigned char>(file));
            assert_int_equal(int(file == 0 ? keys_.add_plain() : keys_.add(secret)),
                             int(KeyRing::AddResult::added));
        }
    }

    Outcome claim(unsigned n, ClaimNumber by, Token wanted, const std::string &record,
                  Millis lifetime) override
    {
        Request request(raw_id(n));

        request.token = wanted;
        run(request, Call::Kind::claim, by, record, lifetime);
        return {request.reply.verdict, request.reply.token, request.reply.remaining,
                std::string(request.reply.value)};
    }

    Verdict settle(unsigned n, ClaimNumber by, const std::string &record, Millis lifetime) override
    {
        return run(n, Call::Kind::settle, by, record, lifetime);
    }

    Verdict release(unsigned n, ClaimNumber by) override
    {
        return run(n, Call::Kind::release, by, "", 0);
    }

    Verdict renew(unsigned n, ClaimNumber by, Millis lifetime) override
    {
        return run(n, Call::Kind::renew, by, "", lifetime);
    }

    Verdict replace(unsigned n, Call &call) override
    {
        call.id = raw_id(n);
        assert_true(store_.start(call));
        return call.reply.verdict;
    }

    void pass(Millis time) override { clock_.now += time; }

private:
    void on_open_failed(const KeyId &, const char *) override { fail(); }

    Verdict run(unsigned n, Call::Kind kind, ClaimNumber by, const std::string &record,
                Millis lifetime)
    {
        Request request(raw_id(n));

        run(request, kind, by, record, lifetime);
        return request.reply.verdict;
    }

    void run(Request &request, Call::Kind kind, ClaimNumber by, const std::string &record,
             Millis lifetime)
    {
        std::string_view piece = record;

        request.kind = kind;
        request.claim = claim_id(by);
        request.value = {&piece, 1};
        request.lifetime = lifetime;
        assert_true(store_.start(request));
        assert_false(request.reply.sent);
    }

    Clock clock_;
    TestMemory<MemoryZone> memory_;
    MemoryStore inner_;
    KeyRing keys_;
    SealedStore store_;
};

UNIT_TEST(a_sealed_memory_store_does_as_the_model)
{
    for (std::initializer_list<int> files :
         {std::initializer_list<int>{1}, {1, 2, 3}, {0, 1}, {2, 0}}) {
        for (unsigned seed = 0; seed < 5; seed++) {
            SealedMemory engine(files);

            follow_model(engine, seed, 3000);
        }
    }

    // a sealed claim takes one block (zone_layout.h)
    static_assert(kLargestClaim + kSealOverhead <= 400, "as zone_layout.h says");
}

// Requests in any order, one inner call after another, at hosts that are
// neighbours on the way from one key to another.
class Crowd {
public:
    // `loses`: inner calls fail now and then.
    Crowd(unsigned seed, std::vector<std::unique_ptr<Host>> hosts, bool loses)
        : random_(seed), hosts_(std::move(hosts))
    {
        for (const auto &host : hosts_) {
            host->inner.held_back = true;

            if (loses) {
                host->inner.fails = [this](const Call &) {
                    return random_() % 8 == 0 ? Failure(random_() % 3 + 1) : Failure::none;
                };
            }
        }
    }

    void run(int steps)
    {
        for (int i = 0; i < steps; i++) {
            if (random_() % 4 == 0 && members_.size() < 12) {
                arrive();
            } else {
                let_one_on();
            }
            leave();
        }

        while (let_one_on()) {
        }
        leave();
        assert_true(members_.empty());

        // no claim is left behind
        for (const auto &each : hosts_[0]->inner.backend.keys) {
            assert_true(each.second.holds != Key::Holds::claim);
        }
    }

    unsigned executions() const { return executions_; }

private:
    static constexpr unsigned kKeys = 3;

    struct Member : Request {
        using Request::Request;

        Host *host = nullptr;
        unsigned key = 0;
        enum { asks, executes, keeps, releases, gone } stage = asks;
    };

    void arrive()
    {
        unsigned key = random_() % kKeys;
        unsigned char fingerprint = random_() % 4 == 0 ? 0xcd : 0xab;

        members_.push_back(std::make_unique<Member>(raw_id(key), fingerprint));

        Member &member = *members_.back();

        member.host = hosts_[random_() % hosts_.size()].get();
        member.key = key;
        member.then = [this, &member] { go_on(member); };
        assert_false(member.claim_key(*member.host));
    }

    void go_on(Member &member)
    {
        switch (member.stage) {
        case Member::asks:
            handle_reply(member);
            break;
        case Member::keeps:
            if (member.reply.verdict == Verdict::unavailable) {
                assert_false(member.settle(*member.host, State::kept, result_[member.key]));
                break;
            }
            expect(member, Verdict::done);
            has_result_[member.key] = true;
            holder_[member.key] = false;
            member.stage = Member::gone;
            break;
        case Member::releases:
            if (member.reply.verdict == Verdict::unavailable) {
                assert_false(member.release(*member.host));
                break;
            }
            assert_true(member.reply.verdict == Verdict::done
                        || member.reply.verdict == Verdict::lost);
            member.stage = Member::gone;
            break;
        default:
            fail();
        }
    }

    void handle_reply(Member &member)
    {
        if (member.reply.verdict == Verdict::claimed) {
            // the heart of it
            assert_false(holder_[member.key]);
            assert_false(has_result_[member.key]);
            holder_[member.key] = true;
            executions_++;
            member.token = member.reply.token;
            member.stage = Member::executes;
            return;
        }

        if (member.reply.verdict == Verdict::unavailable) {
            member.stage = member.reply.sent ? Member::releases : Member::gone;
            if (member.reply.sent) {
                assert_false(member.release(*member.host));
            }
            return;
        }

        Record record = member.found();

        if (record.head.state == State::kept) {
            if (result_[member.key].empty()) {
                fail();
            }
            assert_true(record.body == result_[member.key]);
        }

        member.stage = Member::gone;
    }

    void finish(Member &member)
    {
        if (random_() % 3 == 0) {
            member.stage = Member::releases;
            // one key after the other is free from now on
            holder_[member.key] = false;
            assert_false(member.release(*member.host));
            return;
        }

        member.stage = Member::keeps;
        result_[member.key] = "answer " + std::to_string(executions_);
        assert_false(member.settle(*member.host, State::kept, result_[member.key]));
    }

    bool let_one_on()
    {
        std::size_t choices = members_.size();
        std::size_t choice = choices > 0 ? random_() % choices : 0;

        for (std::size_t i = 0; i < choices; i++) {
            Member &member = *members_[(choice + i) % choices];

            if (member.stage == Member::executes) {
                finish(member);
                return true;
            }
        }

        std::size_t first = random_() % hosts_.size();

        for (std::size_t i = 0; i < hosts_.size(); i++) {
            ModelStore &inner = hosts_[(first + i) % hosts_.size()]->inner;

            if (!inner.waiting.empty()) {
                inner.let_on(random_() % inner.waiting.size());
                return true;
            }
        }

        return false;
    }

    void leave()
    {
        members_.erase(
            std::remove_if(members_.begin(), members_.end(),
                           [](const auto &member) { return member->stage == Member::gone; }),
            members_.end());
    }

    std::mt19937 random_;
    std::vector<std::unique_ptr<Host>> hosts_;
    std::vector<std::unique_ptr<Member>> members_;
    bool holder_[kKeys] = {};
    bool has_result_[kKeys] = {};
    std::string result_[kKeys];
    unsigned executions_ = 0;
};

UNIT_TEST(neighbours_never_both_hold_a_key)
{
    with_two_keys([](int from, int to) {
        for (int step = 0; step < 3; step++) {
            unsigned executions = 0;

            for (unsigned seed = 0; seed < 400; seed++) {
                Backend backend;
                std::vector<std::unique_ptr<Host>> hosts;
                auto add = [&](std::initializer_list<int> files) {
                    hosts.push_back(std::make_unique<Host>(backend, files));
                };

                for (int side : {step, step + 1}) {
                    switch (side) {
                    case 0:
                        add({from});
                        break;
                    case 1:
                        add({from, to});
                        add({from, to});
                        break;
                    case 2:
                        add({to, from});
                        add({to, from});
                        break;
                    default:
                        add({to});
                    }
                }

                Crowd crowd(seed, std::move(hosts), seed % 2 != 0);

                crowd.run(300);
                executions += crowd.executions();
            }

            assert_true(executions > 300);
        }
    });
}

}  // namespace
