#include "redis/protocol/pipeline.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "redis/protocol/meaning.h"
#include "redis/protocol/redirect.h"

namespace idempotency {

namespace {

// A stalled connection is given up after so many timeouts without the answer:
// until then Redis may come back, and a claim that it granted late is released.
constexpr Millis kPatience = 3;

constexpr const char *kNoRedis = "its answers are not those of Redis to these commands";
constexpr const char *kSilent = "it does not answer";
constexpr const char *kNoMemory = "no memory";

}  // namespace

RedisPipeline::RedisPipeline(const RedisScripts &scripts, const RedisManner &manner,
                             Events &events) noexcept
    : manner_(manner), events_(events), reader_(*this), encoder_(scripts, manner_, output_)
{}

RedisPipeline::~RedisPipeline()
{
    close();
    give_up();
    end_all(owed_);
}

RedisCommand *RedisPipeline::take_command(Kind kind, Millis deadline) noexcept
{
    RedisCommand *command = unused_.take();

    if (command != nullptr) {
        *command = RedisCommand();
        command->kind = kind;
        command->deadline = deadline;
    }

    return command;
}

void RedisPipeline::recycle(RedisCommand *command) noexcept
{
    command->leases.reset();
    unused_.give(command);
}

// The life of a connection

void RedisPipeline::open(const RedisLogin &login, Millis now) noexcept
{
    char database[16];
    auto end = std::to_chars(database, database + sizeof(database), login.database).ptr;

    state_ = State::greeting;
    fault_ = nullptr;
    output_.clear();

    bool sent = reader_.restart()
                && (login.password.empty() || greet(Kind::auth, login.user, login.password, now))
                && (login.database == 0
                    || greet(Kind::select, {}, {database, std::size_t(end - database)}, now))
                && (!login.master_only || greet(Kind::role, {}, {}, now))
                && greet(Kind::ping, {}, {}, now);

    if (!sent) {
        fault_ = kNoMemory;
    }
}

void RedisPipeline::close() noexcept
{
    RedisCommandQueue gone = in_flight_.take();
    RedisCommandQueue held = replicas_.close();

    state_ = State::closed;
    fault_ = nullptr;
    paused_ = false;
    late_ = 0;
    room_taken_ = 0;
    value_ = {};
    reader_.drop_value();
    output_.clear();

    while (!gone.empty()) {
        RedisCommand *command = gone.pop();

        if (command->is_owed()) {
            owe(command);
        } else {
            end(command, Reply());
        }
    }

    end_unconfirmed(held);
}

// Whether the replicas have it will not be known any more.
void RedisPipeline::end_unconfirmed(RedisCommandQueue held) noexcept
{
    while (!held.empty()) {
        RedisCommand *command = held.pop();
        Call *call = command->call;

        if (command->kind == Kind::claim) {
            command->kind = Kind::release;
            command->call = nullptr;
            command->owed_until = command->deadline + command->lease;
            owe(command);
        } else {
            recycle(command);
        }

        call->reply = Reply();
        call->ended(*call);
    }
}

void RedisPipeline::owe(RedisCommand *release) noexcept
{
    release->by_text = false;
    release->late = false;
    release->asked = false;
    owed_.push(release);
}

void RedisPipeline::send_owed(Millis now) noexcept
{
    RedisCommandQueue owed = owed_.take();

    while (!owed.empty()) {
        RedisCommand *command = owed.pop();

        if (command->owed_until > now) {
            command->deadline = own_deadline(now);
            send(command);
        } else {
            recycle(command);
        }
    }
}

void RedisPipeline::give_up() noexcept { end_all(waiting_.take()); }

bool RedisPipeline::drained() const noexcept
{
    const RedisCommand *command = in_flight_.first();

    while (command != nullptr && command->late) {
        command = command->next;
    }

    return command == nullptr && replicas_.holds_none();
}

// Calls

bool RedisPipeline::start(Call &call, Millis deadline, bool asking) noexcept
{
    // in the order of Call::Kind
    static constexpr Kind kinds[] = {Kind::claim, Kind::settle, Kind::release};

    bool fetches = call.kind == Call::Kind::claim && call.large > 0;
    Kind kind = fetches ? Kind::fetch : kinds[static_cast<std::size_t>(call.kind)];
    RedisCommand *command =
        fault_ == nullptr && !stalled() ? take_command(kind, deadline) : nullptr;

    call.reply = Reply();

    if (command == nullptr) {
        return true;
    }

    command->call = &call;
    command->id = call.id;
    command->token = call.token;
    command->asking = asking;
    command->lease = call.lifetime;

    bool is_sent = state_ == State::ready && !paused_ && waiting_.empty()
                   && (has_room() || !command->takes_room());

    if (is_sent) {
        send(command);
    } else {
        waiting_.push(command);
    }

    return false;
}

bool RedisPipeline::has_room() const noexcept
{
    return manner_.most_in_flight == 0 || room_taken_ < manner_.most_in_flight;
}

// Of a command that may stand behind a WAIT.
Millis RedisPipeline::own_deadline(Millis now) const noexcept
{
    return now + manner_.timeout + (manner_.replicas > 0 ? manner_.replica_wait : 0);
}

void RedisPipeline::renew(const Lease *leases, std::size_t count, Millis now) noexcept
{
    std::size_t most = manner_.single_renewals ? 1 : kRenewedAtOnce;

    while (count > 0 && ready() && !stalled()) {
        std::size_t n = std::min(count, most);

        if (!renew_batch(leases, n, now)) {
            return;
        }

        leases += n;
        count -= n;
    }
}

bool RedisPipeline::renew_batch(const Lease *leases, std::size_t count, Millis now) noexcept
{
    std::unique_ptr<Lease[]> copy(new (std::nothrow) Lease[count]);
    RedisCommand *command = copy ? take_command(Kind::renew, own_deadline(now)) : nullptr;

    if (command == nullptr) {
        return false;
    }

    std::copy(leases, leases + count, copy.get());
    command->leases = std::move(copy);
    command->lease_count = count;
    command->asking = count == 1 && leases[0].asking;
    send(command);
    return true;
}

// Nobody holds the claim that Redis has granted.
void RedisPipeline::release_late(const RedisCommand &claim, Token token, Millis now) noexcept
{
    RedisCommand *command = take_command(Kind::release, own_deadline(now));

    if (command != nullptr) {
        command->id = claim.id;
        command->token = token;
        command->asking = claim.asking;
        command->owed_until = now + claim.lease;
        send(command);
    }
}

bool RedisPipeline::greet(Kind kind, std::string_view first, std::string_view second,
                          Millis now) noexcept
{
    RedisCommand *command = take_command(kind, now + manner_.timeout);

    if (command == nullptr) {
        return false;
    }

    encoder_.put_words({command->name(), first, second});
    command->end = output_.appended();
    in_flight_.push(command);
    return !output_.failed();
}

void RedisPipeline::send(RedisCommand *command) noexcept
{
    if (command->asking) {
        // it is for the next command alone
        encoder_.put_words({"ASKING"});
        command->asked = true;
        command->asking_end = output_.appended();
    }

    encoder_.put(*command);
    command->end = output_.appended();
    in_flight_.push(command);

    room_taken_ += command->takes_room();

    if (manner_.replicas > 0 && command->changes()) {
        replicas_.changes(command->deadline);
    }

    // the stream of bytes has a gap now: nothing more can be sent
    if (output_.failed()) {
        fault_ = kNoMemory;
    }
}

// In the order in which they came: one that has no room keeps the others.
void RedisPipeline::send_waiting() noexcept
{
    while (!waiting_.empty() && fault_ == nullptr && !paused_
           && (has_room() || !waiting_.first()->takes_room()))
    {
        send(waiting_.pop());
    }
}

void RedisPipeline::send_wait() noexcept
{
    RedisCommand *command = take_command(Kind::wait, replicas_.sent());

    if (command == nullptr) {
        fault_ = kNoMemory;
        return;
    }

    send(command);
}

// Writing

std::size_t RedisPipeline::output(iovec *out, std::size_t most) noexcept
{
    if (fault_ == nullptr && replicas_.is_due()) {
        send_wait();
    }

    return fault_ == nullptr ? output_.pieces(out, most) : 0;
}

// Reading

void RedisPipeline::input(std::string_view bytes, Millis now) noexcept
{
    RedisAnswer answer;

    while (!bytes.empty() && fault_ == nullptr) {
        RedisReader::Result result = RedisReader::Result::garbage;

        // an answer that nobody asked for is as bad as one that cannot be read
        if (!in_flight_.empty()) {
            result = reader_.next(bytes, answer);
        }

        if (result == RedisReader::Result::answer) {
            take_answer(answer, now);

            if (state_ == State::ready) {
                send_waiting();
            }
        } else if (result == RedisReader::Result::garbage) {
            fault_ = kNoRedis;
        }
    }
}

// Where the value goes that has been found.
char *RedisPipeline::value(std::size_t size)
{
    RedisCommand *command = in_flight_.first();
    Call *call =
        command->kind == Kind::claim || command->kind == Kind::fetch ? command->call : nullptr;
    bool is_wanted = call != nullptr && call->room != nullptr
                     && (command->kind == Kind::claim || size == call->large);
    char *room = is_wanted ? call->room(*call, size) : nullptr;

    value_ = {{room, room != nullptr ? size : 0}, size, room != nullptr};
    return room;
}

void RedisPipeline::take_answer(const RedisAnswer &answer, Millis now) noexcept
{
    if (take_asking(*in_flight_.first(), answer)) {
        return;
    }

    RedisCommand *command = in_flight_.pop();
    Reply reply;

    late_ -= command->late;
    room_taken_ -= command->takes_room();

    // with `fault_` set nothing is written any more, so the call gives nothing
    // back that is still needed
    if (command->end > output_.written()) {
        fault_ = kNoRedis;
        end(command, Reply());
        return;
    }

    if (command->greets()) {
        take_greeting(*command, answer, now);
        recycle(command);
        return;
    }

    if (command->kind == Kind::wait) {
        take_wait(command, answer, now);
        return;
    }

    if (answer.kind == RedisAnswer::Kind::error
        && (take_no_script(command, answer) || take_redirect(command, answer)))
    {
        return;
    }

    if (std::size_t size = size_of_too_large(*command, answer, manner_.inline_limit); size > 0) {
        take_too_large(command, size, now);
        return;
    }

    if (command->kind == Kind::fetch && answer.kind != RedisAnswer::Kind::error) {
        take_fetched(command, answer, now);
        return;
    }

    if (!read_reply(*command, answer, value_, reply)) {
        fault_ = kNoRedis;
        end(command, Reply());
        return;
    }

    if (command->late && reply.verdict == Verdict::claimed) {
        release_late(*command, reply.token, now);
    }

    if (answer.kind == RedisAnswer::Kind::error) {
        events_.error_answer(command->name(), answer.code,
                             command->kind != Kind::renew ? &command->id : nullptr);
    }

    // its place has been taken, and whoever took it may have the claim
    if (command->is_owed() && std::strcmp(answer.code, "READONLY") == 0) {
        owe(command);
    } else if (!hold(command, reply)) {
        end(command, reply);
    }
}

// True where the call ends when the replicas have what it has changed.
bool RedisPipeline::hold(RedisCommand *command, const Reply &reply) noexcept
{
    bool changed = reply.verdict == Verdict::claimed
                   || (reply.verdict == Verdict::done && command->kind == Kind::settle);

    if (!changed || manner_.replicas == 0 || command->call == nullptr) {
        return false;
    }

    if (command->kind == Kind::claim) {
        command->token = reply.token;
    }

    replicas_.hold(command);
    return true;
}

// How many replicas have all that was sent before it.
void RedisPipeline::take_wait(RedisCommand *command, const RedisAnswer &answer, Millis now) noexcept
{
    bool is_error = answer.kind == RedisAnswer::Kind::error;

    recycle(command);

    if (!is_error && answer.kind != RedisAnswer::Kind::integer) {
        fault_ = kNoRedis;
        return;
    }

    bool are_there = !is_error && answer.integer >= static_cast<long long>(manner_.replicas);
    RedisCommandQueue held = replicas_.answered(are_there, own_deadline(now));

    if (!are_there) {
        if (is_error || !held.empty()) {
            events_.error_answer("WAIT", is_error ? answer.code : "NOREPLICAS", nullptr);
        }

        end_in_vain(held, now);
        return;
    }

    while (!held.empty()) {
        RedisCommand *done = held.pop();
        Reply reply;

        reply.verdict = done->kind == Kind::claim ? Verdict::claimed : Verdict::done;
        reply.token = done->kind == Kind::claim ? done->token : 0;
        end(done, reply);
    }
}

// Each claim is released first: who is told may want the key again.
void RedisPipeline::end_in_vain(RedisCommandQueue queue, Millis now) noexcept
{
    while (!queue.empty()) {
        RedisCommand *held = queue.pop();

        if (held->kind == Kind::claim) {
            release_late(*held, held->token, now);
        }

        end(held, Reply());
    }
}

void RedisPipeline::take_greeting(const RedisCommand &command, const RedisAnswer &answer,
                                  Millis now) noexcept
{
    fault_ = fault_of_greeting(command, answer);

    if (answer.kind == RedisAnswer::Kind::error) {
        events_.error_answer(command.name(), answer.code, nullptr);
    }

    if (fault_ != nullptr) {
        return;
    }

    if (command.kind == Kind::ping) {
        state_ = State::ready;
        send_owed(now);
        send_waiting();
        events_.greeted();
    }
}

// The answer to what comes before the command.
bool RedisPipeline::take_asking(RedisCommand &command, const RedisAnswer &answer) noexcept
{
    bool refused = answer.kind == RedisAnswer::Kind::error;

    if (!command.asked) {
        return false;
    }

    command.asked = false;

    if (command.asking_end > output_.written()
        || (!refused && answer.kind != RedisAnswer::Kind::status))
    {
        fault_ = kNoRedis;
    } else if (refused) {
        events_.error_answer("ASKING", answer.code, nullptr);
    }

    return true;
}

// True where the command is sent again, with its script, or is dropped.
bool RedisPipeline::take_no_script(RedisCommand *command, const RedisAnswer &answer) noexcept
{
    if (std::strcmp(answer.code, "NOSCRIPT") != 0 || (command->by_text && !command->late)) {
        return false;
    }

    if (command->late && !command->is_owed()) {
        recycle(command);
        return true;
    }

    // The command goes to the end of the queue: what overtakes it was in flight
    // at the same time, and nobody has been told the outcome of either, so
    // every order of the two is a right one.
    command->by_text = true;
    command->late = false;
    send(command);
    return true;
}

// The value comes over another connection, if it is wanted at all: a very large
// one costs Redis and the network something even where it is thrown away here.
void RedisPipeline::take_too_large(RedisCommand *command, std::size_t size, Millis now) noexcept
{
    Call *call = command->call;
    Millis deadline = command->deadline;
    Millis left = 0;

    if (call == nullptr || !value_.has_room || !read_left(value_.bytes, left)
        || call->room(*call, size) == nullptr)
    {
        end(command, Reply());
        return;
    }

    call->large = size;
    call->large_until = now + left;
    recycle(command);
    events_.rerouted(*call, deadline);
}

// By a plain GET: in a script a large value is copied twice more, and Redis
// serves nobody meanwhile.  A value of another size has come into the key since
// the claim found it: then it is claimed once more.
void RedisPipeline::take_fetched(RedisCommand *command, const RedisAnswer &answer,
                                 Millis now) noexcept
{
    Call *call = command->call;
    Millis deadline = command->deadline;
    Reply reply;

    if (answer.kind != RedisAnswer::Kind::string && answer.kind != RedisAnswer::Kind::nil) {
        fault_ = kNoRedis;
        end(command, reply);
        return;
    }

    bool is_there =
        answer.kind == RedisAnswer::Kind::string && call != nullptr && value_.size == call->large;

    if (call != nullptr && !is_there) {
        call->large = 0;
        recycle(command);
        events_.rerouted(*call, deadline);
        return;
    }

    if (is_there && value_.has_room) {
        reply = found_reply(value_, call->large_until > now ? call->large_until - now : 0);
    }

    end(command, reply);
}

// True where the command was sent to the wrong node, which has not run it.
bool RedisPipeline::take_redirect(RedisCommand *command, const RedisAnswer &answer) noexcept
{
    RedisRedirect redirect;

    if (!parse_redis_redirect(answer.text, redirect) || command->lease_count > 1) {
        return false;
    }

    Call *call = command->call;
    Millis deadline = command->deadline;
    bool late = command->late;
    bool is_renewal = command->kind == Kind::renew;
    Lease lease = is_renewal ? command->leases[0] : Lease();

    recycle(command);

    if (call != nullptr) {
        events_.redirected(*call, deadline, redirect);
    } else if (is_renewal && !late) {
        events_.lease_redirected(lease, redirect);
    }

    return true;
}

// Endings

void RedisPipeline::end(RedisCommand *command, const Reply &reply) noexcept
{
    Call *call = command->call;

    recycle(command);

    if (call != nullptr) {
        call->reply = reply;
        call->ended(*call);
    }
}

void RedisPipeline::end_all(RedisCommandQueue queue) noexcept
{
    while (!queue.empty()) {
        end(queue.pop(), Reply());
    }
}

void RedisPipeline::expire(Millis now) noexcept
{
    end_all(waiting_.take_expired(now));

    if (fault_ == nullptr) {
        end_in_vain(replicas_.take_expired(now), now);
    }

    for (RedisCommand *at = in_flight_.first(); at != nullptr && fault_ == nullptr; at = at->next) {
        if (at->late || at->deadline > now) {
            continue;
        }

        // Bytes that are still to be written may be the caller's, who gets
        // them back with the end of the call.  The rest of the command cannot
        // be left out, and a connection that took no bytes for so long is dead.
        if (at->end > output_.written() || at->greets()) {
            fault_ = kSilent;
            return;
        }

        Call *call = at->call;

        at->call = nullptr;
        at->late = true;
        late_++;

        // the first one's answer may be on its way into the call's room
        if (at == in_flight_.first()) {
            reader_.drop_value();
        }

        if (call != nullptr) {
            call->reply = Reply();
            call->ended(*call);
        }
    }

    const RedisCommand *first = in_flight_.first();

    if (first != nullptr && first->late && now >= first->deadline + kPatience * manner_.timeout) {
        fault_ = kSilent;
    }
}

Millis RedisPipeline::next_deadline() const noexcept
{
    auto is_awaited = [](const RedisCommand &command) { return !command.late; };
    Millis next = std::min({in_flight_.next_deadline(is_awaited), waiting_.next_deadline(),
                            replicas_.next_deadline()});
    const RedisCommand *first = in_flight_.first();

    if (first != nullptr && first->late) {
        next = std::min(next, first->deadline + kPatience * manner_.timeout);
    }

    return next;
}

}  // namespace idempotency
