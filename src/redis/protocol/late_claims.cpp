#include "redis/protocol/late_claims.h"

namespace idempotency {

void RedisLateClaims::release(const RedisCommand &claim, Token token, Millis now) noexcept
{
    RedisCommand *command = pool_.make(RedisCommand::Kind::release, options_.own_deadline(now));

    if (command != nullptr) {
        command->id = claim.id;
        command->token = token;
        command->asking = claim.asking;
        command->claim_expires = now + claim.lease;
        sender_.send(command);
    }
}

// Each claim is released before its call ends, which may claim the key again.
void RedisLateClaims::end_held(RedisCommandQueue held, Millis now) noexcept
{
    while (!held.empty()) {
        RedisCommand *command = held.pop();

        if (command->kind == RedisCommand::Kind::claim) {
            release(*command, command->token, now);
        }

        pool_.end(command, Reply());
    }
}

// Whether the replicas have what is held cannot be found out any more.
void RedisLateClaims::end_held_after_close(RedisCommandQueue held) noexcept
{
    while (!held.empty()) {
        RedisCommand *command = held.pop();
        Call *call = command->call;

        if (command->kind == RedisCommand::Kind::claim) {
            command->kind = RedisCommand::Kind::release;
            command->call = nullptr;
            command->claim_expires = command->deadline + command->lease;
            keep(command);
        } else {
            pool_.recycle(command);
        }

        call->reply = Reply();
        call->ended(*call);
    }
}

void RedisLateClaims::keep(RedisCommand *release) noexcept
{
    release->as_eval = false;
    release->timed_out = false;
    release->awaits_asking_reply = false;
    kept_.push(release);
}

void RedisLateClaims::send_kept(Millis now) noexcept
{
    RedisCommandQueue kept = kept_.take();

    while (!kept.empty()) {
        RedisCommand *command = kept.pop();

        if (command->claim_expires > now) {
            command->deadline = options_.own_deadline(now);
            sender_.send(command);
        } else {
            pool_.recycle(command);
        }
    }
}

}  // namespace idempotency
