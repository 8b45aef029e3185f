// The secret of the zones in tests: known, so that a test can choose the bucket of a key.

#pragma once

#include "core/siphash.h"

namespace idempotency {

constexpr SipKey kZoneSecret{0x0123456789abcdef, 0xfedcba9876543210};

}  // namespace idempotency
