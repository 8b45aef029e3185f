#include "http/exchange/claim_record.h"

#include "nginx/clock.h"

namespace idempotency {

RecordHead outcome_head(const ClaimFacts &facts, State state, Millis lifetime)
{
    RecordHead head;

    head.state = state;
    head.tells_hold = facts.conf.unknown_hold != 0;
    head.claim = facts.call.claim;
    head.token = facts.token;
    head.fingerprint = facts.fingerprint;
    head.since = facts.token / 1000 + (monotonic_now() - facts.asked_at);
    head.lifetime = lifetime;
    head.hold = facts.hold;
    return head;
}

std::size_t write_claim(const ClaimFacts &facts, unsigned char *out)
{
    RecordHead head = outcome_head(facts, State::running, facts.conf.lease + facts.hold);

    // the store writes the token, and the token has the time
    head.token = 0;
    head.since = 0;

    RecordWriter writer(out, head);

    writer.add_holder({static_cast<std::uint32_t>(ngx_pid),
                       view(const_cast<ngx_cycle_t *>(ngx_cycle)->hostname)});
    writer.finish(facts.call.id);
    return writer.size();
}

}  // namespace idempotency
