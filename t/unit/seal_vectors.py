#!/usr/bin/env python3
# The test vectors of docs/format.md and t/unit/key_ring.cpp, computed by another
# implementation (python3-cryptography) from what docs/format.md says.

import hashlib
import hmac
import struct
import zlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

TOKEN = 1700000000000001
CLAIM_ID = bytes(range(0xc0, 0xd0))
LEASE = 30000
DAY = 86400000


def derive(secret, purpose, size):
    info = b'ngx_http_idempotency_module ' + purpose
    return HKDF(hashes.SHA256(), size, None, info).derive(secret)


def hmac_sha256(key, text):
    return hmac.new(key, text, hashlib.sha256).digest()


def key_id(scope, key):
    return hashlib.sha256(b'S\x01' + struct.pack('>Q', len(scope)) + scope + b'K' + key).digest()


def extension(kind, data):
    return struct.pack('>HI', kind, len(data)) + data


def record(raw_id, state, token, times, extensions, body=b''):
    lifetime, since, hold = times
    head = (b'IDM\x01\0\0\0' + state + CLAIM_ID + struct.pack('>QQ', token, lifetime)
            + b'\xab' * 32 + struct.pack('>QQ', since, hold)
            + struct.pack('>II', len(extensions), len(body)))
    checksum = 0
    for part in (body, extensions, head[:24], head[32:], raw_id):
        checksum = zlib.crc32(part, checksum)
    return head + struct.pack('>I', checksum) + extensions + body


def claim_record(raw_id):
    holder = struct.pack('>I', 4711) + b'web-1'
    return record(raw_id, b'R', 0, (LEASE + DAY, 0, DAY), extension(2, holder))


def kept_record(raw_id):
    status_line = b'201 Created'
    header = b'\0' + struct.pack('>HI', 12, 16) + b'Content-Type' + b'application/json'
    response = struct.pack('>HHH', 201, 1, len(status_line)) + status_line + header
    return record(raw_id, b'K', TOKEN, (DAY, 1700000000123, 0),
                  extension(1, response) + extension(4, scope_tag(raw_id, b'YOUR_API_KEY')),
                  b'{"id":1}')


def with_token(value, token):
    """What a store does with the record of a claim when it grants the claim."""
    return value[:24] + struct.pack('>Q', token) + value[32:]


def scope_tag(raw_id, scope):
    return hashlib.sha256(b'T' + raw_id + b'S\x01' + struct.pack('>Q', len(scope)) + scope).digest()[:16]


def seal(plain, record_key, tag, nonce, identity, raw_id):
    clear = plain[:3] + b'\x02' + plain[4:40]
    associated = clear[:24] + clear[32:] + tag + identity
    return associated, clear + tag + nonce + AESGCM(record_key).encrypt(nonce, raw_id + plain, associated)


def main():
    secret = bytes(range(32))
    tag = derive(secret, b'key tag', 8)
    naming = derive(secret, b'naming', 32)
    sealing = derive(secret, b'sealing', 32)
    raw_id = key_id(b'YOUR_API_KEY', b'uuid-abc-123')
    identity = hmac_sha256(naming, raw_id)
    record_key = hmac_sha256(sealing, identity)
    claim, kept = claim_record(raw_id), kept_record(raw_id)
    nonces = bytes(range(0xb0, 0xbc)), bytes(range(0xa0, 0xac))
    claim_associated, sealed_claim = seal(claim, record_key, tag, nonces[0], identity, raw_id)
    kept_associated, sealed_kept = seal(kept, record_key, tag, nonces[1], identity, raw_id)

    values = (
        ('secret', secret),
        ('key tag', tag),
        ('naming', naming),
        ('sealing', sealing),
        ('key id', raw_id),
        ('scope tag', scope_tag(raw_id, b'YOUR_API_KEY')),
        ('identity', identity),
        ('record key', record_key),
        ('claim', claim),
        ('granted', with_token(claim, TOKEN)),
        ('kept', kept),
        ('claim: nonce', nonces[0]),
        ('claim: associated', claim_associated),
        ('claim: sealed', sealed_claim),
        ('claim: granted', with_token(sealed_claim, TOKEN)),
        ('kept: nonce', nonces[1]),
        ('kept: associated', kept_associated),
        ('kept: sealed', sealed_kept),
    )

    for name, value in values:
        digits = value.hex()
        for at in range(0, len(digits), 96):
            print(f'{name if at == 0 else "":18} {digits[at:at + 96]}')


if __name__ == '__main__':
    main()
