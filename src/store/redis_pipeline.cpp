#include "store/redis_pipeline.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "core/wire.h"

namespace idempotency {

namespace {

// Below this a copy is cheaper than one more piece of a writev().
constexpr std::size_t kReferFrom = 4096;

// A stalled connection is given up after so many timeouts without the answer:
// until then Redis may come back, and a claim that it granted late is released.
constexpr Millis kPatience = 3;

constexpr const char *kNoRedis = "its answers are not those of Redis to these commands";
constexpr const char *kSilent = "it does not answer";
constexpr const char *kNoMemory = "no memory";

// The answer to ROLE: null where it is a master.
const char *fault_of_role(const RedisAnswer &answer)
{
    bool is_role = answer.kind == RedisAnswer::Kind::list || answer.kind == RedisAnswer::Kind::pair;

    if (!is_role) {
        return "it does not greet as Redis does";
    }

    return answer.text == "master" ? nullptr
           : answer.text == "slave" ? "it is a replica"
                                    : "it is no master";
}

// What PTTL said, as text; -1, no end, counts as none left.
bool read_left(std::string_view text, Millis &number)
{
    long long value = 0;
    const char *end = text.data() + text.size();
    auto read = std::from_chars(text.data(), end, value);

    number = value > 0 ? static_cast<Millis>(value) : 0;
    return !text.empty() && read.ec == std::errc() && read.ptr == end;
}

}  // namespace

struct RedisPipeline::Command {
    Command *next;
    Kind kind;
    bool by_text;           // sent as EVAL, after NOSCRIPT
    bool late;              // past its deadline; its answer is only read
    bool asking;            // sent behind an ASKING
    bool asked;             // whose answer is still to come
    Call *call;             // null: the pipeline's own, or the call has ended
    KeyId id;
    Token token;
    Millis deadline;
    Millis lease;           // of a claim
    Millis owed_until;      // a release that nobody waits for: the claim ends by then
    std::uint64_t asking_end;
    std::uint64_t end;      // of its bytes, as RedisOutput counts
    Lease *leases;
    std::size_t lease_count;
};

void RedisPipeline::Queue::push(Command *command)
{
    command->next = nullptr;

    if (last != nullptr) {
        last->next = command;
    } else {
        first = command;
    }

    last = command;
}

RedisPipeline::Command *RedisPipeline::Queue::pop()
{
    Command *command = first;

    first = command->next;

    if (first == nullptr) {
        last = nullptr;
    }

    return command;
}

RedisPipeline::RedisPipeline(const RedisScripts &scripts, const RedisManner &manner,
                             Events &events) noexcept
    : scripts_(scripts), manner_(manner), events_(events), reader_(*this)
{
}

RedisPipeline::~RedisPipeline()
{
    close();
    give_up();
    end_all(owed_);

    while (unused_ != nullptr) {
        Command *gone = unused_;

        unused_ = gone->next;
        std::free(gone);
    }
}

// Commands are kept for further use: their number is that of the most that
// were ever in flight at a time.
RedisPipeline::Command *RedisPipeline::take_command(Kind kind, Millis deadline) noexcept
{
    Command *command = unused_;

    if (command != nullptr) {
        unused_ = command->next;
    } else {
        command = static_cast<Command *>(std::malloc(sizeof(Command)));
    }

    if (command != nullptr) {
        *command = Command();
        command->kind = kind;
        command->deadline = deadline;
    }

    return command;
}

void RedisPipeline::recycle(Command *command) noexcept
{
    std::free(command->leases);
    command->next = unused_;
    unused_ = command;
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
    Queue gone = in_flight_;

    state_ = State::closed;
    fault_ = nullptr;
    paused_ = false;
    in_flight_ = Queue();
    late_ = 0;
    room_taken_ = 0;
    wait_wanted_ = false;
    wait_in_flight_ = false;
    replicas_are_there_ = false;
    wait_deadline_ = 0;
    value_ = {};
    reader_.drop_value();
    output_.clear();

    while (gone.first != nullptr) {
        Command *command = gone.pop();

        if (is_owed(*command)) {
            owe(command);
        } else {
            end(command, Reply());
        }
    }

    end_held();
}

// Whether the replicas have it will not be known any more.
void RedisPipeline::end_held() noexcept
{
    Queue gone = held_;

    held_ = Queue();

    while (gone.first != nullptr) {
        Command *command = gone.pop();
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

bool RedisPipeline::is_owed(const Command &command)
{
    return command.kind == Kind::release && command.call == nullptr && command.owed_until != 0;
}

void RedisPipeline::owe(Command *release) noexcept
{
    release->by_text = false;
    release->late = false;
    release->asked = false;
    owed_.push(release);
}

void RedisPipeline::send_owed(Millis now) noexcept
{
    Queue owed = owed_;

    owed_ = Queue();

    while (owed.first != nullptr) {
        Command *command = owed.pop();

        if (command->owed_until > now) {
            command->deadline = own_deadline(now);
            send(command);
        } else {
            recycle(command);
        }
    }
}

void RedisPipeline::give_up() noexcept
{
    Queue gone = waiting_;

    waiting_ = Queue();
    end_all(gone);
}

bool RedisPipeline::drained() const noexcept
{
    const Command *command = in_flight_.first;

    while (command != nullptr && command->late) {
        command = command->next;
    }

    return command == nullptr && held_.first == nullptr;
}

// Calls

bool RedisPipeline::start(Call &call, Millis deadline, bool asking) noexcept
{
    // in the order of Call::Kind
    static constexpr Kind kinds[] = {Kind::claim, Kind::settle, Kind::release};

    bool fetches = call.kind == Call::Kind::claim && call.large > 0;
    Kind kind = fetches ? Kind::fetch : kinds[static_cast<std::size_t>(call.kind)];
    Command *command = fault_ == nullptr && !stalled() ? take_command(kind, deadline) : nullptr;

    call.reply = Reply();

    if (command == nullptr) {
        return true;
    }

    command->call = &call;
    command->id = call.id;
    command->token = call.token;
    command->asking = asking;
    command->lease = call.lifetime;

    bool is_sent = state_ == State::ready && !paused_ && waiting_.first == nullptr
                   && (has_room() || !takes_room(kind));

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
    auto copy = static_cast<Lease *>(std::malloc(count * sizeof(Lease)));
    Command *command = copy != nullptr ? take_command(Kind::renew, own_deadline(now)) : nullptr;

    if (command == nullptr) {
        std::free(copy);
        return false;
    }

    std::copy(leases, leases + count, copy);
    command->leases = copy;
    command->lease_count = count;
    command->asking = count == 1 && leases[0].asking;
    send(command);
    return true;
}

// Nobody holds the claim that Redis has granted.
void RedisPipeline::release_late(const Command &claim, Token token, Millis now) noexcept
{
    Command *command = take_command(Kind::release, own_deadline(now));

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
    Command *command = take_command(kind, now + manner_.timeout);

    if (command == nullptr) {
        return false;
    }

    put_number('*', 1 + std::size_t(!first.empty()) + std::size_t(!second.empty()));
    put_bulk(name(kind));

    for (std::string_view argument : {first, second}) {
        if (!argument.empty()) {
            put_bulk(argument);
        }
    }

    command->end = output_.appended();
    in_flight_.push(command);
    return !output_.failed();
}

// An ASKING is for the next command alone, so that it comes with each.
void RedisPipeline::put_asking(Command &command) noexcept
{
    output_.copy("*1\r\n$6\r\nASKING\r\n");
    command.asked = true;
    command.asking_end = output_.appended();
}

void RedisPipeline::send(Command *command) noexcept
{
    if (command->asking) {
        put_asking(*command);
    }

    put_command(*command);
    command->end = output_.appended();
    in_flight_.push(command);

    room_taken_ += takes_room(command->kind);

    if (changes(command->kind)) {
        wait_wanted_ = manner_.replicas > 0;
        wait_deadline_ = std::max(wait_deadline_, command->deadline);
    }

    // the stream of bytes has a gap now: nothing more can be sent
    if (output_.failed()) {
        fault_ = kNoMemory;
    }
}

// In the order in which they came: one that has no room keeps the others.
void RedisPipeline::send_waiting() noexcept
{
    while (waiting_.first != nullptr && fault_ == nullptr && !paused_
           && (has_room() || !takes_room(waiting_.first->kind)))
    {
        send(waiting_.pop());
    }
}

void RedisPipeline::send_wait() noexcept
{
    Command *command = take_command(Kind::wait, wait_deadline_);

    if (command == nullptr) {
        fault_ = kNoMemory;
        return;
    }

    wait_wanted_ = false;
    wait_in_flight_ = true;
    send(command);
}

// Writing

RedisScript RedisPipeline::script_of(Kind kind)
{
    switch (kind) {
    case Kind::claim:
        return RedisScript::claim;
    case Kind::settle:
        return RedisScript::settle;
    case Kind::release:
        return RedisScript::release;
    default:
        return RedisScript::renew;
    }
}

const char *RedisPipeline::name(Kind kind)
{
    static constexpr const char *names[] = {"AUTH",    "SELECT", "ROLE", "PING", "claim", "settle",
                                            "release", "renew",  "WAIT", "GET"};

    return names[static_cast<std::size_t>(kind)];
}

void RedisPipeline::put_number(char mark, std::uint64_t number) noexcept
{
    char text[24] = {mark};
    char *end = std::to_chars(text + 1, text + sizeof(text) - 2, number).ptr;

    *end++ = '\r';
    *end++ = '\n';
    output_.copy({text, static_cast<std::size_t>(end - text)});
}

void RedisPipeline::put_bulk(std::string_view bytes) noexcept
{
    put_number('$', bytes.size());
    output_.copy(bytes);
    output_.copy("\r\n");
}

void RedisPipeline::put_bulk_number(std::uint64_t number) noexcept
{
    char text[24];
    char *end = std::to_chars(text, text + sizeof(text), number).ptr;

    put_bulk({text, static_cast<std::size_t>(end - text)});
}

void RedisPipeline::put_token(Token token) noexcept
{
    unsigned char bytes[kTokenSize];

    wire::put_u64(bytes, token);
    put_bulk(wire::view(bytes, sizeof(bytes)));
}

void RedisPipeline::put_key(const KeyId &id) noexcept
{
    char hex[kHexLength];

    write_hex(id, hex);
    put_number('$', manner_.prefix.size() + sizeof(hex));
    output_.copy(manner_.prefix);
    output_.copy({hex, sizeof(hex)});
    output_.copy("\r\n");
}

void RedisPipeline::put_pieces(const Pieces &pieces) noexcept
{
    put_number('$', pieces.size());

    for (std::size_t i = 0; i < pieces.count; i++) {
        if (pieces.first[i].size() < kReferFrom) {
            output_.copy(pieces.first[i]);
        } else {
            output_.refer(pieces.first[i]);
        }
    }

    output_.copy("\r\n");
}

void RedisPipeline::put_script(Kind kind, bool by_text, std::size_t keys,
                               std::size_t arguments) noexcept
{
    RedisScript script = script_of(kind);

    put_number('*', 3 + keys + arguments);
    put_bulk(by_text ? "EVAL" : "EVALSHA");
    put_bulk(by_text ? script_text(script) : scripts_.sha(script));
    put_bulk_number(keys);
}

void RedisPipeline::put_command(const Command &command) noexcept
{
    switch (command.kind) {
    case Kind::claim:
        put_script(command.kind, command.by_text, 1, 4);
        put_key(command.id);
        put_pieces(command.call->value);
        put_bulk_number(command.call->lifetime);

        if (command.token != 0) {
            put_token(command.token);
        } else {
            put_bulk({});
        }

        put_bulk_number(manner_.inline_limit);
        break;

    case Kind::settle:
        put_script(command.kind, command.by_text, 1, 3);
        put_key(command.id);
        put_token(command.token);
        put_pieces(command.call->value);
        put_bulk_number(command.call->lifetime);
        break;

    case Kind::release:
        put_script(command.kind, command.by_text, 1, 1);
        put_key(command.id);
        put_token(command.token);
        break;

    case Kind::fetch:
        put_number('*', 2);
        put_bulk(name(command.kind));
        put_key(command.id);
        break;

    case Kind::wait:
        put_number('*', 3);
        put_bulk(name(command.kind));
        put_bulk_number(manner_.replicas);
        put_bulk_number(std::max<Millis>(manner_.replica_wait, 1));     // 0 is for ever
        break;

    default:
        put_script(command.kind, command.by_text, command.lease_count, 2 * command.lease_count);

        for (std::size_t i = 0; i < command.lease_count; i++) {
            put_key(command.leases[i].id);
        }

        for (std::size_t i = 0; i < command.lease_count; i++) {
            put_token(command.leases[i].token);
            put_bulk_number(command.leases[i].length);
        }
    }
}

std::size_t RedisPipeline::output(iovec *out, std::size_t most) noexcept
{
    // A WAIT that goes along with its commands saves a round trip.  Where it may
    // take all of its time it is sent when something is known to have changed:
    // what is only fetched must not stand behind it.
    bool is_due = replicas_are_there_ || held_.first != nullptr;

    if (wait_wanted_ && !wait_in_flight_ && is_due && fault_ == nullptr) {
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
        if (in_flight_.first != nullptr) {
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
    Command *command = in_flight_.first;
    Call *call = command->kind == Kind::claim || command->kind == Kind::fetch ? command->call
                                                                              : nullptr;
    bool is_wanted = call != nullptr && call->room != nullptr
                     && (command->kind == Kind::claim || size == call->large);
    char *room = is_wanted ? call->room(*call, size) : nullptr;

    no_room_ = room == nullptr;
    value_size_ = size;
    value_ = {room, room != nullptr ? size : 0};
    return room;
}

void RedisPipeline::take_answer(const RedisAnswer &answer, Millis now) noexcept
{
    if (take_asking(*in_flight_.first, answer)) {
        return;
    }

    Command *command = in_flight_.pop();
    Reply reply;

    late_ -= command->late;
    room_taken_ -= takes_room(command->kind);

    // with `fault_` set nothing is written any more, so the call gives nothing
    // back that is still needed
    if (command->end > output_.written()) {
        fault_ = kNoRedis;
        end(command, Reply());
        return;
    }

    if (greets(command->kind)) {
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

    if (is_too_large(*command, answer)) {
        take_too_large(command, -static_cast<std::size_t>(answer.integer), now);
        return;
    }

    if (command->kind == Kind::fetch && answer.kind != RedisAnswer::Kind::error) {
        take_fetched(command, answer, now);
        return;
    }

    if (!read_answer(*command, answer, reply)) {
        fault_ = kNoRedis;
        end(command, Reply());
        return;
    }

    if (command->late && reply.verdict == Verdict::claimed) {
        release_late(*command, reply.token, now);
    }

    if (answer.kind == RedisAnswer::Kind::error) {
        events_.error_answer(name(command->kind), answer.code,
                             command->kind != Kind::renew ? &command->id : nullptr);
    }

    // its place has been taken, and whoever took it may have the claim
    if (is_owed(*command) && std::strcmp(answer.code, "READONLY") == 0) {
        owe(command);
    } else if (!hold(command, reply)) {
        end(command, reply);
    }
}

// True where the call ends when the replicas have what it has changed.
bool RedisPipeline::hold(Command *command, const Reply &reply) noexcept
{
    bool changed = reply.verdict == Verdict::claimed
                   || (reply.verdict == Verdict::done && command->kind == Kind::settle);

    if (!changed || manner_.replicas == 0 || command->call == nullptr) {
        return false;
    }

    if (command->kind == Kind::claim) {
        command->token = reply.token;
    }

    held_.push(command);
    return true;
}

// How many replicas have all that was sent before it.
void RedisPipeline::take_wait(Command *command, const RedisAnswer &answer, Millis now) noexcept
{
    bool is_error = answer.kind == RedisAnswer::Kind::error;
    Queue queue = held_;

    recycle(command);

    if (!is_error && answer.kind != RedisAnswer::Kind::integer) {
        fault_ = kNoRedis;
        return;
    }

    wait_in_flight_ = false;
    wait_deadline_ = own_deadline(now);
    held_ = Queue();
    replicas_are_there_ = !is_error
                          && answer.integer >= static_cast<long long>(manner_.replicas);

    if (!replicas_are_there_) {
        if (is_error || queue.first != nullptr) {
            events_.error_answer(name(Kind::wait), is_error ? answer.code : "NOREPLICAS", nullptr);
        }

        end_held_in_vain(queue, now);
        return;
    }

    while (queue.first != nullptr) {
        Command *held = queue.pop();
        Reply reply;

        reply.verdict = held->kind == Kind::claim ? Verdict::claimed : Verdict::done;
        reply.token = held->kind == Kind::claim ? held->token : 0;
        end(held, reply);
    }
}

// Each claim is released first: who is told may want the key again.
void RedisPipeline::end_held_in_vain(Queue queue, Millis now) noexcept
{
    while (queue.first != nullptr) {
        Command *held = queue.pop();

        if (held->kind == Kind::claim) {
            release_late(*held, held->token, now);
        }

        end(held, Reply());
    }
}

void RedisPipeline::take_greeting(const Command &command, const RedisAnswer &answer,
                                  Millis now) noexcept
{
    if (answer.kind == RedisAnswer::Kind::error) {
        events_.error_answer(name(command.kind), answer.code, nullptr);
        fault_ = "it refuses the connection";
        return;
    }

    if (command.kind == Kind::role) {
        fault_ = fault_of_role(answer);
        return;
    }

    if (answer.kind != RedisAnswer::Kind::status) {
        fault_ = "it does not greet as Redis does";
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
bool RedisPipeline::take_asking(Command &command, const RedisAnswer &answer) noexcept
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
bool RedisPipeline::take_no_script(Command *command, const RedisAnswer &answer) noexcept
{
    if (std::strcmp(answer.code, "NOSCRIPT") != 0 || (command->by_text && !command->late)) {
        return false;
    }

    if (command->late && !is_owed(*command)) {
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

bool RedisPipeline::is_too_large(const Command &command, const RedisAnswer &answer) const noexcept
{
    return command.kind == Kind::claim && answer.kind == RedisAnswer::Kind::pair
           && manner_.inline_limit > 0
           && answer.integer < -static_cast<long long>(manner_.inline_limit);
}

// The value comes over another connection, if it is wanted at all: a very large
// one costs Redis and the network something even where it is thrown away here.
void RedisPipeline::take_too_large(Command *command, std::size_t size, Millis now) noexcept
{
    Call *call = command->call;
    Millis deadline = command->deadline;
    Millis left = 0;

    if (call == nullptr || no_room_ || !read_left(value_, left)
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
void RedisPipeline::take_fetched(Command *command, const RedisAnswer &answer, Millis now) noexcept
{
    Call *call = command->call;
    Millis deadline = command->deadline;
    Reply reply;

    if (answer.kind != RedisAnswer::Kind::string && answer.kind != RedisAnswer::Kind::nil) {
        fault_ = kNoRedis;
        end(command, reply);
        return;
    }

    bool is_there = answer.kind == RedisAnswer::Kind::string && call != nullptr
                    && value_size_ == call->large;

    if (call != nullptr && !is_there) {
        call->large = 0;
        recycle(command);
        events_.rerouted(*call, deadline);
        return;
    }

    if (is_there && !no_room_) {
        reply = found(call->large_until > now ? call->large_until - now : 0);
    }

    end(command, reply);
}

// What the key has, which is in its place.
Reply RedisPipeline::found(Millis remaining) const noexcept
{
    Reply reply;

    reply.verdict = Verdict::found;
    reply.value = value_;
    reply.remaining = remaining;

    if (value_.size() >= kTokenOffset + kTokenSize) {
        reply.token = wire::get_u64(
            reinterpret_cast<const unsigned char *>(value_.data()) + kTokenOffset);
    }

    return reply;
}

// True where the command was sent to the wrong node, which has not run it.
bool RedisPipeline::take_redirect(Command *command, const RedisAnswer &answer) noexcept
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

// False where the answer is none to this command.
bool RedisPipeline::read_answer(const Command &command, const RedisAnswer &answer,
                                Reply &reply) noexcept
{
    switch (answer.kind) {
    case RedisAnswer::Kind::error:
        return true;

    case RedisAnswer::Kind::pair:
        if (command.kind != Kind::claim || answer.integer < -1) {
            return false;
        }

        // the room for the value was the call's, and is gone with it
        if (no_room_ || command.call == nullptr) {
            return true;
        }

        reply = found(answer.integer > 0 ? static_cast<Millis>(answer.integer) : 0);
        return true;

    case RedisAnswer::Kind::integer:
        break;

    default:
        return false;
    }

    switch (command.kind) {
    case Kind::claim:
        reply.verdict = Verdict::claimed;
        reply.token = command.token != 0 ? command.token : static_cast<Token>(answer.integer);
        return command.token != 0 ? answer.integer == 1 : answer.integer > 0;

    case Kind::renew:
        return answer.integer >= 0;

    default:
        reply.verdict = answer.integer == 1 ? Verdict::done : Verdict::lost;
        return answer.integer == 0 || answer.integer == 1;
    }
}

// Endings

void RedisPipeline::end(Command *command, const Reply &reply) noexcept
{
    Call *call = command->call;

    recycle(command);

    if (call != nullptr) {
        call->reply = reply;
        call->ended(*call);
    }
}

void RedisPipeline::end_all(Queue queue) noexcept
{
    while (queue.first != nullptr) {
        end(queue.pop(), Reply());
    }
}

void RedisPipeline::expire(Millis now) noexcept
{
    expire_waiting(now);

    if (fault_ == nullptr) {
        expire_held(now);
    }

    for (Command *at = in_flight_.first; at != nullptr && fault_ == nullptr; at = at->next) {
        if (at->late || at->deadline > now) {
            continue;
        }

        // Bytes that are still to be written may be the caller's, who gets
        // them back with the end of the call.  The rest of the command cannot
        // be left out, and a connection that took no bytes for so long is dead.
        if (at->end > output_.written() || greets(at->kind)) {
            fault_ = kSilent;
            return;
        }

        Call *call = at->call;

        at->call = nullptr;
        at->late = true;
        late_++;

        // the first one's answer may be on its way into the call's room
        if (at == in_flight_.first) {
            reader_.drop_value();
        }

        if (call != nullptr) {
            call->reply = Reply();
            call->ended(*call);
        }
    }

    const Command *first = in_flight_.first;

    if (first != nullptr && first->late && now >= first->deadline + kPatience * manner_.timeout) {
        fault_ = kSilent;
    }
}

void RedisPipeline::expire_waiting(Millis now) noexcept
{
    Queue kept;
    Queue expired;

    while (waiting_.first != nullptr) {
        Command *command = waiting_.pop();

        (command->deadline > now ? kept : expired).push(command);
    }

    waiting_ = kept;
    end_all(expired);
}

void RedisPipeline::expire_held(Millis now) noexcept
{
    Queue kept;
    Queue expired;

    while (held_.first != nullptr) {
        Command *command = held_.pop();

        (command->deadline > now ? kept : expired).push(command);
    }

    held_ = kept;
    end_held_in_vain(expired, now);
}

Millis RedisPipeline::next_deadline() const noexcept
{
    Millis next = kNever;

    for (const Queue *queue : {&in_flight_, &waiting_, &held_}) {
        for (const Command *at = queue->first; at != nullptr; at = at->next) {
            if (!at->late) {
                next = std::min(next, at->deadline);
            }
        }
    }

    const Command *first = in_flight_.first;

    if (first != nullptr && first->late) {
        next = std::min(next, first->deadline + kPatience * manner_.timeout);
    }

    return next;
}

}  // namespace idempotency
