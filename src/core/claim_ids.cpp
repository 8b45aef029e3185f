#include "core/claim_ids.h"

#include <cstring>

#include <openssl/rand.h>

#include "core/openssl.h"
#include "core/wire.h"

namespace idempotency {

bool ClaimIdSource::seed()
{
    return checked(RAND_bytes(process_.data(), static_cast<int>(process_.size())) == 1);
}

ClaimId ClaimIdSource::next()
{
    ClaimId id;

    static_assert(sizeof(id.bytes) == sizeof(process_) + sizeof(count_));
    std::memcpy(id.bytes.data(), process_.data(), process_.size());
    wire::put_u64(id.bytes.data() + process_.size(), ++count_);
    return id;
}

}  // namespace idempotency
