// The pipeline without a Redis: the tests contain the replies of Redis.

#pragma once

#include "cmocka.h"

#include <functional>
#include <string>

#include "store/redis_pipeline.h"

namespace idempotency {

constexpr Millis kTimeout = 100;
constexpr const char *kPong = "+PONG\r\n";
constexpr const char *kNoScript = "-NOSCRIPT No matching script. Please use EVAL.\r\n";

struct TestCall : Call {
    TestCall(Kind what, unsigned char key)
    {
        kind = what;
        id.bytes.fill(key);
        lifetime = 30000;
        room = give_room;
        ended = note_end;
    }

    void set_value(std::string_view bytes)
    {
        piece = bytes;
        value = {&piece, 1};
    }

    static char *give_room(Call &call, std::size_t size)
    {
        auto &self = static_cast<TestCall &>(call);

        if (self.no_room) {
            return nullptr;
        }

        self.found.resize(size);
        return &self.found[0];
    }

    static void note_end(Call &call)
    {
        auto &self = static_cast<TestCall &>(call);

        assert_int_equal(self.ends, 0);
        self.ends++;

        if (self.then) {
            self.then(self);
        }
    }

    bool ended_as(Verdict verdict) const { return ends == 1 && reply.verdict == verdict; }

    int ends = 0;
    bool no_room = false;
    std::string found;
    std::string_view piece;
    std::function<void(TestCall &)> then;
};

struct Harness : RedisPipeline::Events {
    explicit Harness(const RedisManner &manner = manner_of_tests())
        : pipeline(scripts, manner, *this)
    {
    }

    static RedisManner manner_of_tests()
    {
        RedisManner manner;

        manner.prefix = "idm:";
        manner.timeout = kTimeout;
        return manner;
    }

    void greeted() override { greetings++; }

    void error_answer(const char *what, const char *code, const KeyId *id) override
    {
        errors += std::string(what) + " " + code + (id != nullptr ? " key;" : ";");
    }

    void redirected(Call &call, Millis deadline, const RedisRedirect &redirect) override
    {
        redirected_call = &call;
        note_redirect(redirect);
        redirects += " by " + std::to_string(deadline) + ";";
    }

    void lease_redirected(const Lease &lease, const RedisRedirect &redirect) override
    {
        note_redirect(redirect);
        redirects += " lease " + std::to_string(lease.token) + ";";
    }

    void rerouted(Call &call, Millis deadline) override
    {
        rerouted_call = &call;
        rerouted_deadline = deadline;
    }

    void note_redirect(const RedisRedirect &redirect)
    {
        redirects += (redirect.ask ? "ask " : "moved ") + std::to_string(redirect.slot) + " to "
                     + std::string(redirect.host) + " " + std::to_string(redirect.port);
    }

    void greet()
    {
        pipeline.open(RedisLogin(), now);
        written();
        receive(kPong);
        assert_true(pipeline.ready());
    }

    // All bytes that are to be written.
    std::string written()
    {
        std::string bytes;
        iovec pieces[3];

        while (std::size_t n = pipeline.output(pieces, 3)) {
            std::size_t size = 0;

            for (std::size_t i = 0; i < n; i++) {
                bytes.append(static_cast<char *>(pieces[i].iov_base), pieces[i].iov_len);
                size += pieces[i].iov_len;
            }

            pipeline.wrote(size);
        }

        return bytes;
    }

    // Passes bytes of a reply to the pipeline.
    void receive(std::string_view bytes) { pipeline.input(bytes, now); }

    bool start(Call &call) { return pipeline.start(call, now + kTimeout); }

    // Starts a call and writes it.
    std::string send(Call &call)
    {
        assert_false(start(call));
        return written();
    }

    // Starts a claim whose token comes when it has ended at its deadline.
    void grant_too_late(Call &claim)
    {
        greet();
        send(claim);
        now += kTimeout;
        pipeline.expire(now);
        receive(":258\r\n");
    }

    RedisScripts scripts;
    std::string errors;
    std::string redirects;
    Call *redirected_call = nullptr;
    Call *rerouted_call = nullptr;
    Millis rerouted_deadline = 0;
    int greetings = 0;
    Millis now = 1000;
    RedisPipeline pipeline;
};

inline std::string found_reply(const std::string &value, long long ttl)
{
    return "*2\r\n$" + std::to_string(value.size()) + "\r\n" + value + "\r\n:"
           + std::to_string(ttl) + "\r\n";
}

inline std::size_t count_of(const std::string &text, const std::string &part)
{
    std::size_t n = 0;

    for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at++) {
        n++;
    }

    return n;
}

}  // namespace idempotency
