// The pipeline alone: what a Redis would answer is written by hand in the tests that include this.

#pragma once

#include "cmocka.h"

#include <functional>
#include <string>

#include "core/wire.h"
#include "redis/protocol/pipeline.h"

namespace idempotency {

constexpr Millis kTimeout = 100;
constexpr const char *kPong = "+PONG\r\n";
constexpr const char *kNoScript = "-NOSCRIPT No matching script. Please use EVAL.\r\n";

// As unlike any other text of a command as it can be.
inline ClaimId claim_id(unsigned char key)
{
    ClaimId claim;

    claim.bytes.fill(key);
    claim.bytes[0] = '\r';
    claim.bytes[1] = '\n';
    claim.bytes[2] = 0;
    return claim;
}

// The claim of a TestCall with this key, as an argument of a command.
inline std::string claim_argument(unsigned char key)
{
    return "$16\r\n" + std::string(claim_id(key).view()) + "\r\n";
}

struct TestCall : Call {
    TestCall(Kind what, unsigned char key)
    {
        kind = what;
        id.bytes.fill(key);
        lifetime = 30000;
        claim = claim_id(key);
        Call::allocate_value = allocate_found;
        value = {&piece, 1};  // without a value a claim would only look up
        ended = on_ended;
    }

    void set_value(std::string_view bytes)
    {
        piece = bytes;
        value = {&piece, 1};
    }

    static char *allocate_found(Call &call, std::size_t size)
    {
        auto &self = static_cast<TestCall &>(call);

        if (self.no_memory) {
            return nullptr;
        }

        self.found.resize(size);
        return &self.found[0];
    }

    static void on_ended(Call &call)
    {
        auto &self = static_cast<TestCall &>(call);

        assert_int_equal(self.ends, 0);
        self.ends++;

        if (self.then) {
            self.then(self);
        }
    }

    bool ended_as(Verdict verdict) const { return ends == 1 && reply.verdict == verdict; }
    bool ended_unavailable(bool sent) const
    {
        return ended_as(Verdict::unavailable) && reply.sent == sent;
    }

    int ends = 0;
    bool no_memory = false;
    std::string found;
    std::string_view piece;
    std::function<void(TestCall &)> then;
};

struct Harness : RedisPipeline::Events {
    explicit Harness(const RedisPipelineOptions &options = options_of_tests())
        : pipeline(scripts, options, *this)
    {}

    static RedisPipelineOptions options_of_tests()
    {
        RedisPipelineOptions options;

        options.prefix = "idm:";
        options.timeout = kTimeout;
        return options;
    }

    void greeted() override { greetings++; }

    void error_reply(const char *what, const char *code, const KeyId *id, const char *) override
    {
        errors += std::string(what) + " " + code + (id != nullptr ? " key;" : ";");
    }

    void redirected(Call &call, Millis deadline, const RedisRedirect &redirect) override
    {
        redirected_call = &call;
        note_redirect(redirect);
        redirects += " by " + std::to_string(deadline) + ";";
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
        reply(kPong);
        assert_true(pipeline.ready());
    }

    // What there is to write, all of it.
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

    void reply(std::string_view bytes) { pipeline.input(bytes, now); }

    bool start(Call &call) { return pipeline.start(call, now + kTimeout); }

    // Starts a call and has it written.
    std::string send(Call &call)
    {
        assert_false(start(call));
        return written();
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
    return "*2\r\n$" + std::to_string(value.size()) + "\r\n" + value + "\r\n:" + std::to_string(ttl)
           + "\r\n";
}

inline bool ends_with(const std::string &text, const std::string &end)
{
    return text.size() >= end.size()
           && text.compare(text.size() - end.size(), end.size(), end) == 0;
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
