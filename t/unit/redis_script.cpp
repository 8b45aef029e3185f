// The scripts, on a Redis that the test starts itself.

#include "model.h"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/record.h"
#include "core/wire.h"
#include "redis/protocol/pipeline.h"

using namespace idempotency;

namespace {

Millis steady_now()
{
    timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return Millis(time.tv_sec) * 1000 + Millis(time.tv_nsec) / 1000000;
}

// How long a test waits for a reply of Redis before it fails.
constexpr Millis kPatience = 60000;

void sleep_for(Millis length) { std::this_thread::sleep_for(std::chrono::milliseconds(length)); }

// A port of the loopback that nobody has.
int free_port()
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    socklen_t size = sizeof(address);

    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, reinterpret_cast<sockaddr *>(&address), size), 0);
    assert_int_equal(getsockname(fd, reinterpret_cast<sockaddr *>(&address), &size), 0);
    ::close(fd);
    return ntohs(address.sin_port);
}

// A Redis on a socket of its own, in a directory that goes away with it.
class Server {
public:
    // `port` 0: no replica can come.  `master`: whose replica it is.
    explicit Server(int port = 0, int master = 0)
    {
        assert_non_null(mkdtemp(directory_));
        path_ = std::string(directory_) + "/redis.sock";

        std::string text = std::to_string(port), of = std::to_string(master);

        pid_ = fork();
        assert_true(pid_ >= 0);

        if (pid_ == 0) {
            // a test that fails leaves its objects behind: the server must end all the same, and hold no pipe open
            prctl(PR_SET_PDEATHSIG, SIGKILL);

            if (std::freopen("/dev/null", "w", stdout) != nullptr
                && std::freopen("/dev/null", "w", stderr) != nullptr)
            {
                execlp("redis-server", "redis-server", "--port", text.c_str(), "--bind",
                       "127.0.0.1", "--unixsocket", path_.c_str(), "--save", "", "--dir",
                       directory_, "--appendonly", "no", "--repl-diskless-sync-delay", "0",
                       master != 0 ? "--replicaof" : nullptr, "127.0.0.1", of.c_str(),
                       static_cast<char *>(nullptr));
            }
            _exit(127);
        }
    }

    ~Server()
    {
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
        unlink(path_.c_str());
        unlink((std::string(directory_) + "/dump.rdb").c_str());
        rmdir(directory_);
    }

    void freeze() const { kill(pid_, SIGSTOP); }
    void thaw() const { kill(pid_, SIGCONT); }

    // Waits for a server that is still starting.
    int connect() const
    {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        sockaddr_un address{};

        address.sun_family = AF_UNIX;
        std::strcpy(address.sun_path, path_.c_str());

        for (int i = 0; i < 1000; i++) {
            if (::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)) == 0) {
                return fd;
            }

            sleep_for(10);
        }

        fail_msg("redis-server does not start");
        return -1;
    }

private:
    char directory_[32] = "/tmp/redis-test-XXXXXX";
    std::string path_;
    pid_t pid_ = -1;
};

// A command of the test's own; the answer as it comes over the wire.
std::string ask(int fd, const std::vector<std::string> &words)
{
    std::string bytes = "*" + std::to_string(words.size()) + "\r\n";
    char answer[4096];

    for (const std::string &word : words) {
        bytes += "$" + std::to_string(word.size()) + "\r\n" + word + "\r\n";
    }

    assert_int_equal(::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), bytes.size());

    ssize_t n = ::recv(fd, answer, sizeof(answer), 0);

    assert_true(n > 0);
    return std::string(answer, static_cast<std::size_t>(n));
}

struct TestCall : Call {
    explicit TestCall(Kind what, const KeyId &key, std::string bytes = "") : storage(bytes)
    {
        kind = what;
        id = key;
        piece = storage;
        value = {&piece, bytes.empty() ? 0u : 1u};
        ended = [](Call &call) { static_cast<TestCall &>(call).over = true; };
        allocate_value = [](Call &call, std::size_t size) {
            auto &self = static_cast<TestCall &>(call);

            self.found.resize(size);
            return &self.found[0];
        };
    }

    std::string storage;
    std::string_view piece;
    std::string found;
    bool over = false;
};

// The pipeline over a connection that blocks.
class Client : RedisPipeline::Events {
public:
    explicit Client(const Server &server, std::size_t inline_limit = 0, unsigned replicas = 0,
                    Millis replica_wait = 0)
        : pipeline_(scripts_, options(inline_limit, replicas, replica_wait), *this),
          server_(server), fd_(server.connect()), raw_(server.connect())
    {
        assert_true(scripts_.usable());

        RedisLogin login;

        login.master_only = true;
        pipeline_.open(login, steady_now());
        pump();
        assert_true(pipeline_.ready());
        raw({"FLUSHALL"});
    }

    ~Client()
    {
        ::close(fd_);
        ::close(raw_);
    }

    Outcome claim(const KeyId &id, ClaimNumber by, const std::string &record, Millis lifetime,
                  Token wanted = 0)
    {
        return run(Call::Kind::claim, id, by, wanted, record, lifetime);
    }

    // What the key has.
    Outcome look_up(const KeyId &id) { return claim(id, 999, "", 1); }

    Verdict settle(const KeyId &id, ClaimNumber by, const std::string &record, Millis lifetime)
    {
        return run(Call::Kind::settle, id, by, 0, record, lifetime).verdict;
    }

    Verdict release(const KeyId &id, ClaimNumber by)
    {
        return run(Call::Kind::release, id, by, 0, "", 0).verdict;
    }

    Verdict renew(const KeyId &id, ClaimNumber by, Millis lifetime)
    {
        return run(Call::Kind::renew, id, by, 0, "", lifetime).verdict;
    }

    Verdict replace(const KeyId &id, const Call &what)
    {
        TestCall call(Call::Kind::replace, id,
                      what.value.count > 0 ? std::string(what.value.first[0]) : "");

        call.seen = what.seen;
        call.lifetime = what.lifetime;
        call.most_remaining = what.most_remaining;

        assert_false(start(call));
        pump();
        assert_true(call.over);
        return call.reply.verdict;
    }

    bool start(TestCall &call) { return pipeline_.start(call, steady_now() + 5000); }

    // Until the connection can't be used any more.
    void pump_to_fault()
    {
        Millis end = steady_now() + kPatience;

        while (pipeline_.fault() == nullptr) {
            assert_true(steady_now() < end);
            write();
            read();
        }
    }

    void reconnect()
    {
        ::close(fd_);
        pipeline_.close();
        fd_ = server_.connect();
        pipeline_.open(RedisLogin(), steady_now());
        pump();
    }

    // Until nothing is waited for.
    void pump()
    {
        Millis end = steady_now() + kPatience;

        while (!pipeline_.idle()) {
            assert_true(steady_now() < end);
            write();
            read();
            assert_null(pipeline_.fault());
        }
    }

    // A command of the test's own.
    std::string raw(const std::vector<std::string> &words) { return ask(raw_, words); }

    static std::string name(const KeyId &id)
    {
        char hex[kHexLength];

        write_hex(id, hex);
        return "test:" + std::string(hex, sizeof(hex));
    }

    std::string take_errors()
    {
        std::string errors;

        errors.swap(errors_);
        return errors;
    }

private:
    static RedisPipelineOptions options(std::size_t inline_limit, unsigned replicas,
                                        Millis replica_wait)
    {
        RedisPipelineOptions options;

        options.replicas = replicas;
        options.replica_wait = replica_wait;
        options.inline_limit = inline_limit;
        options.prefix = "test:";
        options.timeout = 5000;
        return options;
    }

    void greeted() override {}
    void redirected(Call &, Millis, const RedisRedirect &) override { fail(); }

    void rerouted(Call &call, Millis) override
    {
        errors_ += "too large: " + std::to_string(static_cast<TestCall &>(call).found.size()) + ";";
        call.reply = Reply();
        call.ended(call);
    }

    void error_reply(const char *what, const char *code, const KeyId *, const char *) override
    {
        errors_ += std::string(what) + " " + code + ";";
    }

    Outcome run(Call::Kind kind, const KeyId &id, ClaimNumber by, Token wanted,
                const std::string &record, Millis lifetime)
    {
        TestCall call(kind, id, record);

        call.claim = claim_id(by);
        call.token = wanted;
        call.lifetime = lifetime;
        assert_false(start(call));
        pump();
        assert_true(call.over);
        return {call.reply.verdict, call.reply.token, call.reply.remaining,
                std::string(call.reply.value)};
    }

    void write()
    {
        iovec pieces[16];
        msghdr message{};

        message.msg_iov = pieces;
        message.msg_iovlen = pipeline_.output(pieces, 16);

        if (message.msg_iovlen > 0) {
            ssize_t written = sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

            // where the other side has closed, it may have said why
            assert_true(written > 0 || errno == EAGAIN || errno == EPIPE || errno == ECONNRESET);
            pipeline_.wrote(written > 0 ? static_cast<std::size_t>(written) : 0);
        }
    }

    void read()
    {
        char bytes[65536];
        ssize_t n = recv(fd_, bytes, sizeof(bytes), MSG_DONTWAIT);

        if (n > 0) {
            pipeline_.input({bytes, static_cast<std::size_t>(n)}, steady_now());
        } else {
            assert_true(n == -1 && (errno == EAGAIN || errno == EINTR));
            std::this_thread::sleep_for(std::chrono::microseconds(50));
        }
    }

    RedisScripts scripts_;
    std::string errors_;
    RedisPipeline pipeline_;
    const Server &server_;
    int fd_;
    int raw_;
};

KeyId key(unsigned n)
{
    KeyId id{};

    wire::put_u32(id.bytes.data() + 9, n);
    return id;
}

// Of key(1), where it is read again.
std::string record_of(State state, ClaimNumber by, Token token = 0, Millis lifetime = 30000)
{
    unsigned char out[kRecordHeadSize];
    RecordHead head;

    head.state = state;
    head.claim = claim_id(by);
    head.token = token;
    head.lifetime = lifetime;

    RecordWriter writer(out, head);

    writer.finish(key(1));
    return std::string(reinterpret_cast<char *>(out), writer.size());
}

std::string claim_record(ClaimNumber by, Millis lifetime = 30000)
{
    return record_of(State::running, by, 0, lifetime);
}

// The head of a result, and then any bytes.
std::string result_of(ClaimNumber by, const std::string &rest)
{
    return record_of(State::kept, by) + rest;
}

const Server &server_of(void **state) { return *static_cast<Server *>(*state); }

UNIT_TEST(a_free_key_is_claimed)
{
    Client redis(server_of(state));
    auto before = Token(std::time(nullptr)) * 1000000;
    Outcome first = redis.claim(key(1), 1, claim_record(1), 30000);

    assert_true(first.verdict == Verdict::claimed);
    assert_true(first.token >= before && first.token < before + 60000000);

    Outcome second = redis.claim(key(1), 2, claim_record(2, 99000), 99000);
    Record read;

    assert_true(second.verdict == Verdict::found);
    assert_true(second.token == first.token);
    assert_true(second.remaining > 25000 && second.remaining <= 30000);
    assert_true(second.value == with_token(claim_record(1), first.token));
    assert_true(read_record(second.value, key(1), read) == RecordFault::none);
    assert_true(read.head.token == first.token);
    assert_true(read.head.claim == claim_id(1));

    // tokens grow, also after the key was released
    Token last = first.token;

    assert_true(redis.release(key(1), 1) == Verdict::done);

    for (ClaimNumber by = 10; by < 110; by++) {
        Outcome next = redis.claim(key(1), by, claim_record(by), 30000);

        assert_true(next.verdict == Verdict::claimed && next.token > last);
        last = next.token;
        assert_true(redis.release(key(1), by) == Verdict::done);
    }
}

UNIT_TEST(a_key_is_looked_up_without_a_claim)
{
    Client redis(server_of(state));

    assert_true(redis.look_up(key(1)).verdict == Verdict::gone);
    assert_string_equal(redis.raw({"DBSIZE"}).c_str(), ":0\r\n");

    Outcome claim = redis.claim(key(1), 1, claim_record(1), 30000);
    Outcome found = redis.look_up(key(1));

    assert_true(found.verdict == Verdict::found);
    assert_true(found.value == with_token(claim_record(1), claim.token));
    assert_true(redis.renew(key(1), 1, 30000) == Verdict::done);
}

UNIT_TEST(a_claim_gets_the_token_that_it_wants)
{
    Client redis(server_of(state));
    const Token token = ~Token(0) - 1;
    Outcome first = redis.claim(key(1), 1, claim_record(1), 30000, token);

    assert_true(first.verdict == Verdict::claimed && first.token == token);

    Outcome second = redis.claim(key(1), 2, claim_record(2), 30000, 7);

    assert_true(second.verdict == Verdict::found && second.token == token);
    assert_true(second.value == with_token(claim_record(1), token));
    assert_true(redis.settle(key(1), 1, result_of(1, ""), 30000) == Verdict::done);
}

UNIT_TEST(a_value_above_the_limit_is_told_of)
{
    Client redis(server_of(state), 1000);

    redis.claim(key(1), 1, claim_record(1), 30000);
    redis.settle(key(1), 1, std::string(1000, 'x'), 30000);
    assert_true(redis.look_up(key(1)).value.size() == 1000);
    redis.raw({"APPEND", Client::name(key(1)), "x"});
    assert_string_equal(redis.take_errors().c_str(), "");
    redis.look_up(key(1));
    assert_string_equal(redis.take_errors().c_str(), "too large: 1001;");

    Client other(server_of(state));

    assert_true(other.claim(key(2), 1, claim_record(1), 30000).verdict == Verdict::claimed);
}

// Somebody has made it persistent, or the clock of Redis has gone back since: it would block its key for ever, or for too long.
UNIT_TEST(a_claim_is_left_for_its_own_lifetime_at_most)
{
    Client redis(server_of(state));
    std::string name = Client::name(key(1));

    for (State held : {State::running, State::unknown}) {
        for (bool persistent : {true, false}) {
            redis.claim(key(1), 1, claim_record(1), 30000);
            assert_true(redis.settle(key(1), 1, record_of(held, 1, 7, 20), 30000) == Verdict::done);

            if (persistent) {
                assert_string_equal(redis.raw({"PERSIST", name}).c_str(), ":1\r\n");
            }

            // whatever the lifetime of the new claim would be
            Outcome found = redis.claim(key(1), 2, claim_record(2, 90000), 90000);

            assert_true(found.verdict == Verdict::found && found.token == 7);
            assert_int_equal(found.remaining, 20);
            assert_true(found.value == record_of(held, 1, 7, 20));

            sleep_for(40);
            assert_string_equal(redis.raw({"EXISTS", name}).c_str(), ":0\r\n");
        }

        // what is left of it is not made longer
        redis.claim(key(1), 1, record_of(held, 1, 7, 30000), 10000);

        Millis remaining = redis.look_up(key(1)).remaining;

        assert_true(remaining > 5000 && remaining <= 10000);
        redis.raw({"DEL", name});
    }
}

// A result that was made persistent stays, as does what is no claim; a lifetime that is none is no reason to delete a claim.
UNIT_TEST(only_a_claim_gets_its_lifetime_again)
{
    Client redis(server_of(state));
    std::string name = Client::name(key(1));
    const std::string values[] = {
        record_of(State::kept, 1, 7, 20),
        record_of(State::not_kept, 1, 7, 20),
        claim_record(1, 20).substr(0, 39),
        "IDN" + claim_record(1, 20).substr(3),
        claim_record(1, 0),
        claim_record(1, ~Millis(0)),
        "IDM\1....R",
    };

    for (const std::string &value : values) {
        redis.raw({"SET", name, value});

        Outcome found = redis.look_up(key(1));

        assert_true(found.verdict == Verdict::found && found.value == value);
        assert_int_equal(found.remaining, 0);
        assert_string_equal(redis.raw({"PTTL", name}).c_str(), ":-1\r\n");
    }

    // the clock has gone back: a result just stays for longer
    redis.raw({"SET", name, values[0], "PX", "50000"});
    assert_true(redis.look_up(key(1)).remaining > 40000);
    assert_string_equal(redis.take_errors().c_str(), "");
}

UNIT_TEST(a_result_replaces_its_claim_alone)
{
    Client redis(server_of(state));
    Token token = redis.claim(key(1), 1, claim_record(1), 30000).token;
    std::string result = result_of(1, "made");

    assert_true(redis.settle(key(1), 2, result, 60000) == Verdict::lost);
    assert_true(redis.look_up(key(1)).value == with_token(claim_record(1), token));

    assert_true(redis.settle(key(1), 1, result, 60000) == Verdict::done);

    Outcome found = redis.claim(key(1), 3, claim_record(3), 30000);

    assert_true(found.verdict == Verdict::found && found.value == result);
    assert_true(found.remaining > 55000 && found.remaining <= 60000);

    // once more, as after a lost reply, is the same; another's is not
    assert_true(redis.settle(key(1), 1, result, 60000) == Verdict::done);
    assert_true(redis.settle(key(1), 2, result, 60000) == Verdict::lost);
}

UNIT_TEST(an_unknown_outcome_may_become_a_result)
{
    Client redis(server_of(state));
    Token token = redis.claim(key(1), 1, claim_record(1), 30000).token;
    std::string unknown = record_of(State::unknown, 1, token);

    assert_true(redis.settle(key(1), 1, unknown, 30000) == Verdict::done);
    assert_true(redis.look_up(key(1)).value == unknown);
    assert_true(redis.release(key(1), 1) == Verdict::lost);
    assert_true(redis.renew(key(1), 1, 60000) == Verdict::lost);
    assert_true(redis.settle(key(1), 1, result_of(1, ""), 30000) == Verdict::done);
    assert_true(redis.look_up(key(1)).value == result_of(1, ""));
}

UNIT_TEST(a_claim_whose_lifetime_has_ended_is_fenced)
{
    Client redis(server_of(state));
    Token old = redis.claim(key(1), 1, claim_record(1, 20), 20).token;

    sleep_for(40);

    // nobody came since: the late result is as good as ever
    assert_true(redis.settle(key(1), 1, record_of(State::kept, 1, old, 20), 20) == Verdict::done);
    sleep_for(40);

    Outcome next = redis.claim(key(1), 2, claim_record(2), 30000);

    assert_true(next.verdict == Verdict::claimed && next.token > old);
    assert_true(redis.settle(key(1), 1, result_of(1, "too late"), 30000) == Verdict::lost);
    assert_true(redis.release(key(1), 1) == Verdict::lost);
    assert_true(redis.renew(key(1), 1, 90000) == Verdict::lost);

    Outcome found = redis.look_up(key(1));

    assert_true(found.token == next.token && found.remaining <= 30000);
}

UNIT_TEST(a_claim_is_released_while_it_runs)
{
    Client redis(server_of(state));

    redis.claim(key(1), 1, claim_record(1), 30000);
    assert_true(redis.release(key(1), 2) == Verdict::lost);
    assert_true(redis.release(key(1), 1) == Verdict::done);
    assert_true(redis.release(key(1), 1) == Verdict::lost);

    redis.claim(key(1), 3, claim_record(3), 30000);
    assert_true(redis.settle(key(1), 3, result_of(3, ""), 30000) == Verdict::done);
    assert_true(redis.release(key(1), 3) == Verdict::lost);
}

UNIT_TEST(renewal_is_for_a_running_claim)
{
    Client redis(server_of(state));

    assert_true(redis.renew(key(1), 1, 60000) == Verdict::gone);
    assert_string_equal(redis.raw({"EXISTS", Client::name(key(1))}).c_str(), ":0\r\n");

    redis.claim(key(1), 1, claim_record(1, 60000), 10000);
    assert_true(redis.renew(key(1), 2, 60000) == Verdict::lost);
    assert_true(redis.look_up(key(1)).remaining <= 10000);
    assert_true(redis.renew(key(1), 1, 60000) == Verdict::done);
    assert_true(redis.look_up(key(1)).remaining > 50000);

    redis.settle(key(1), 1, result_of(1, ""), 10000);
    assert_true(redis.renew(key(1), 1, 60000) == Verdict::lost);
    assert_true(redis.look_up(key(1)).remaining <= 10000);

    // a claim that was gone is claimed again, with its token
    redis.raw({"DEL", Client::name(key(1))});
    assert_true(redis.renew(key(1), 1, 60000) == Verdict::gone);

    Outcome again = redis.claim(key(1), 1, claim_record(1), 30000, 7);

    assert_true(again.verdict == Verdict::claimed && again.token == 7);
    assert_true(redis.renew(key(1), 1, 60000) == Verdict::done);
    assert_string_equal(redis.take_errors().c_str(), "");
}

UNIT_TEST(keys_of_others_are_left_alone)
{
    Client redis(server_of(state));
    std::string name = Client::name(key(1));

    // empty is not the same as missing
    for (const std::string value : {"mine", ""}) {
        redis.raw({"SET", name, value});

        Outcome found = redis.claim(key(1), 1, claim_record(1), 30000);

        assert_true(found.verdict == Verdict::found && found.value == value
                    && found.remaining == 0);
        assert_true(redis.settle(key(1), 1, "x", 1000) == Verdict::lost);
        assert_true(redis.release(key(1), 1) == Verdict::lost);
        assert_true(redis.renew(key(1), 1, 1000) == Verdict::lost);
        assert_string_equal(redis.raw({"STRLEN", name}).c_str(),
                            (":" + std::to_string(value.size()) + "\r\n").c_str());
        assert_string_equal(redis.raw({"PTTL", name}).c_str(), ":-1\r\n");
    }

    // of another type
    redis.raw({"DEL", name});
    redis.raw({"SADD", name, "member"});
    assert_string_equal(redis.take_errors().c_str(), "");
    assert_true(redis.look_up(key(1)).verdict == Verdict::unreadable);
    assert_true(redis.settle(key(1), 1, "x", 1000) == Verdict::unavailable);
    assert_true(redis.release(key(1), 1) == Verdict::unavailable);
    assert_true(redis.renew(key(1), 1, 1000) == Verdict::unavailable);
    assert_string_equal(redis.take_errors().c_str(),
                        "claim WRONGTYPE;settle WRONGTYPE;release WRONGTYPE;renew WRONGTYPE;");
    assert_string_equal(redis.raw({"SCARD", name}).c_str(), ":1\r\n");
}

// Redis replies as soon as it has read the length of the value, and closes the connection.
UNIT_TEST(a_value_above_proto_max_bulk_len_is_refused)
{
    Client redis(server_of(state));
    std::string name = Client::name(key(1));

    redis.claim(key(1), 1, claim_record(1), 30000);
    assert_string_equal(redis.raw({"CONFIG", "SET", "proto-max-bulk-len", "1mb"}).c_str(),
                        "+OK\r\n");

    TestCall settle(Call::Kind::settle, key(1), result_of(1, std::string(8 * 1024 * 1024, 'v'))),
        behind(Call::Kind::release, key(2));

    settle.claim = claim_id(1);
    settle.lifetime = 30000;
    assert_false(redis.start(settle));
    assert_false(redis.start(behind));
    redis.pump_to_fault();
    assert_true(settle.reply.verdict == Verdict::refused);
    assert_false(behind.over);
    redis.reconnect();
    assert_true(behind.over && behind.reply.verdict == Verdict::unavailable && behind.reply.sent);

    // that the result is not kept can be recorded
    assert_true(redis.settle(key(1), 1, record_of(State::not_kept, 1), 30000) == Verdict::done);
    redis.raw({"CONFIG", "SET", "proto-max-bulk-len", "512mb"});
}

UNIT_TEST(every_byte_survives)
{
    Client redis(server_of(state));
    std::string bytes;

    for (int i = 0; i < 256; i++) {
        bytes += static_cast<char>(i);
        bytes += "\r\n$-1\r\n";
    }

    while (bytes.size() < 3 * 1024 * 1024) {
        bytes += bytes;
    }

    redis.claim(key(1), 1, claim_record(1), 30000);

    std::string result = result_of(1, bytes);

    assert_true(redis.settle(key(1), 1, result, 30000) == Verdict::done);
    assert_true(redis.look_up(key(1)).value == result);
}

UNIT_TEST(flushed_scripts_are_loaded_again)
{
    Client redis(server_of(state));
    std::vector<TestCall> claims;

    redis.claim(key(1), 1, claim_record(1), 30000);
    assert_string_equal(redis.raw({"SCRIPT", "FLUSH"}).c_str(), "+OK\r\n");

    for (unsigned i = 0; i < 50; i++) {
        claims.emplace_back(Call::Kind::claim, key(i), claim_record(i));
        claims.back().claim = claim_id(i);
        claims.back().lifetime = 30000;
    }

    for (TestCall &call : claims) {
        call.piece = call.storage;
        call.value = {&call.piece, 1};
        assert_false(redis.start(call));
    }

    redis.pump();

    for (unsigned i = 0; i < claims.size(); i++) {
        assert_true(claims[i].reply.verdict == (i == 1 ? Verdict::found : Verdict::claimed));
    }

    redis.raw({"SCRIPT", "FLUSH"});
    assert_true(redis.renew(key(1), 1, 60000) == Verdict::done);
    assert_true(redis.settle(key(1), 1, result_of(1, ""), 60000) == Verdict::done);
    assert_true(redis.release(key(2), 2) == Verdict::done);
    assert_string_equal(redis.take_errors().c_str(), "");
}

// One key has one holder, whoever asks how often at the same time.
UNIT_TEST(of_many_claims_one_is_granted)
{
    Client redis(server_of(state));
    std::vector<TestCall> claims(64, TestCall(Call::Kind::claim, key(1), claim_record(1)));
    int granted = 0;

    for (TestCall &call : claims) {
        call.piece = call.storage;
        call.value = {&call.piece, 1};
        call.lifetime = 30000;
        assert_false(redis.start(call));
    }

    redis.pump();

    for (TestCall &call : claims) {
        granted += call.reply.verdict == Verdict::claimed;
    }

    assert_int_equal(granted, 1);
}

bool has_replica(Client &redis)
{
    const std::vector<std::string> wait = {"WAIT", "1", "10"};

    for (int i = 0; i < 1000; i++) {
        if (redis.raw(wait) == ":1\r\n") {
            return true;
        }

        sleep_for(10);
    }

    return false;
}

UNIT_TEST(a_claim_counts_when_a_replica_has_it)
{
    int port = free_port();
    Server master(port), replica(0, port);
    Client redis(master, 0, 1, 5000);

    assert_true(has_replica(redis));

    assert_true(redis.claim(key(1), 1, claim_record(1), 30000).verdict == Verdict::claimed);
    assert_true(redis.settle(key(1), 1, result_of(1, "made"), 30000) == Verdict::done);

    // it has by then
    int there = replica.connect();

    assert_true(ask(there, {"GET", Client::name(key(1))}).find("made") != std::string::npos);
    ::close(there);

    // nobody else has to wait for that
    assert_true(redis.claim(key(1), 2, claim_record(2), 30000).verdict == Verdict::found);
    assert_true(redis.release(key(1), 1) == Verdict::lost);
    assert_string_equal(redis.take_errors().c_str(), "");

    // many share one
    std::vector<TestCall> claims(64, TestCall(Call::Kind::claim, key(2), claim_record(1)));

    for (unsigned i = 0; i < claims.size(); i++) {
        claims[i].id = key(10 + i);
        claims[i].piece = claims[i].storage;
        claims[i].value = {&claims[i].piece, 1};
        claims[i].lifetime = 30000;
        assert_false(redis.start(claims[i]));
    }

    redis.pump();

    for (TestCall &call : claims) {
        assert_true(call.reply.verdict == Verdict::claimed);
    }

    assert_string_equal(redis.take_errors().c_str(), "");
}

// It is there, as the call says, and can be released.
UNIT_TEST(a_claim_that_too_few_replicas_have_is_unavailable)
{
    int port = free_port();
    Server master(port), replica(0, port);
    Client two(master, 0, 2, 20), one(master, 0, 1, 20);
    // where a replica replies, however busy the machine is
    Client patient(master, 0, 1, 10000);

    // one that does not answer is as good as none
    assert_true(has_replica(one));

    Outcome claim = two.claim(key(1), 1, claim_record(1), 30000);

    assert_true(claim.verdict == Verdict::unavailable && claim.token == 0);
    assert_string_equal(two.take_errors().c_str(), "WAIT NOREPLICAS;");
    assert_true(two.release(key(1), 1) == Verdict::done);

    replica.freeze();
    assert_true(one.claim(key(1), 2, claim_record(2), 30000).verdict == Verdict::unavailable);
    assert_string_equal(one.take_errors().c_str(), "WAIT NOREPLICAS;");
    assert_true(one.release(key(1), 1) == Verdict::lost);
    assert_true(one.release(key(1), 2) == Verdict::done);
    replica.thaw();

    assert_true(has_replica(one));
    assert_true(patient.claim(key(1), 3, claim_record(3), 30000).verdict == Verdict::claimed);

    // a result is there all the same: it may be told once more, and then counts
    replica.freeze();
    assert_true(one.settle(key(1), 3, result_of(3, "made"), 30000) == Verdict::unavailable);
    replica.thaw();
    assert_true(has_replica(one));
    assert_true(patient.settle(key(1), 3, result_of(3, "made"), 30000) == Verdict::done);
}

// What any sequence of calls comes to is what the model says, and so what it comes to in the embedded store.
class ScriptEngine : public Engine {
public:
    explicit ScriptEngine(const Server &server) : redis_(server) { slack = 120000; }

    Outcome claim(unsigned n, ClaimNumber by, Token wanted, const std::string &record,
                  Millis lifetime) override
    {
        return redis_.claim(key(n), by, record, lifetime, wanted);
    }

    Verdict settle(unsigned n, ClaimNumber by, const std::string &record, Millis lifetime) override
    {
        return redis_.settle(key(n), by, record, lifetime);
    }

    Verdict release(unsigned n, ClaimNumber by) override { return redis_.release(key(n), by); }
    Verdict renew(unsigned n, ClaimNumber by, Millis lifetime) override
    {
        return redis_.renew(key(n), by, lifetime);
    }

    Verdict replace(unsigned n, Call &call) override { return redis_.replace(key(n), call); }

    // As if its clock had gone on.
    void pass(Millis time) override
    {
        for (unsigned n = 0; time > 0 && n < keys; n++) {
            std::string name = Client::name(key(n));
            long left = std::stol(redis_.raw({"PTTL", name}).substr(1));

            if (left > long(time)) {
                redis_.raw({"PEXPIRE", name, std::to_string(left - long(time))});
            } else if (left >= 0) {
                redis_.raw({"DEL", name});
            }
        }
    }

    // Its scripts are lost at times.
    void disturb(std::mt19937 &random) override
    {
        if (random() % 100 == 0) {
            redis_.raw({"SCRIPT", "FLUSH"});
        }
    }

private:
    Client redis_;
};

UNIT_TEST(the_scripts_do_as_the_model)
{
    ScriptEngine engine(server_of(state));

    follow_model(engine, 20250407, 6000);
}

int start_server(void **state)
{
    *state = new Server();
    return 0;
}

int stop_server(void **state)
{
    delete static_cast<Server *>(*state);
    return 0;
}

const UnitTests::Group group(start_server, stop_server);

}  // namespace
