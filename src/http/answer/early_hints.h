// 103 (Early Hints) responses of the application (RFC 8297).

#pragma once

namespace idempotency {

// Installs the early hints filter if nginx has one (1.29 and later): a 103 that can't
// be sent because the client has disconnected does not end the exchange.
void install_early_hints();

}  // namespace idempotency
