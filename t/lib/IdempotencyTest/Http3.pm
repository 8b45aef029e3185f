package IdempotencyTest::Http3;

# A client of HTTP/3, h3.py, and an nginx that has HTTP/3: the one in the directory IDEMPOTENCY_TEST_H3, which has what tools/nginx-h3
# prints; else the nginx that is tested, if it was built with --with-http_v3_module; else tools/nginx-h3 builds one. Load this before any
# module that needs to know which nginx is tested.

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;
use IO::Socket::INET;

use parent 'IdempotencyTest::StreamClient';

my $home;

BEGIN {
    my $tool = dirname(__FILE__) . '/../../../tools/nginx-h3';
    my $tested = $ENV{TEST_NGINX_BINARY} || 'nginx';
    my $is_tested = !defined $ENV{IDEMPOTENCY_TEST_H3} && `$tested -V 2>&1` =~ /--with-http_v3_module/;

    $home = $is_tested ? qx{"$tool" --client} : $ENV{IDEMPOTENCY_TEST_H3} // qx{"$tool"};
    chomp $home;
    die "there is no client of HTTP/3 in '$home': run tools/nginx-h3\n" if !-d "$home/python";

    if (!$is_tested) {
        die "there is no nginx with HTTP/3 in '$home': run tools/nginx-h3\n" if !-x "$home/nginx";
        $ENV{TEST_NGINX_BINARY} = "$home/nginx";
        $ENV{IDEMPOTENCY_MODULE} = "$home/ngx_http_idempotency_module.so";
        # nginx and each of its modules have a table of this name of their own
        $ENV{ASAN_OPTIONS} //= 'detect_odr_violation=0';
        $ENV{LSAN_OPTIONS} //= 'suppressions=' . File::Spec->rel2abs(dirname(__FILE__) . '/../leaks.supp') . ':print_suppressions=0';
    }
}

# Directives for a server; its port is kept over reloads.
sub listener {
    my ($class, $nginx) = @_;
    my $directory = $nginx->directory;

    if (!$nginx->{h3_port}) {
        $nginx->{h3_port} = free_udp_port();
        system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
            . " -keyout $directory/key.pem -out $directory/certificate.pem 2>$directory/openssl.log") == 0
            or die "there is no certificate: see $directory/openssl.log\n";
    }

    return "listen 127.0.0.1:$nginx->{h3_port} quic; ssl_certificate $directory/certificate.pem; ssl_certificate_key $directory/key.pem;";
}

# Below the range that the kernel takes ports from.
sub free_udp_port {
    for (1 .. 200) {
        my $port = 12000 + int rand 18000;
        return $port if IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Proto => 'udp');
    }

    die "no free port found\n";
}

# `window`: how many bytes of a response are read at most.
sub connect {
    my ($class, $nginx, %options) = @_;
    local $ENV{PYTHONPATH} = "$home/python";

    return $class->run('h3.py', '--port', $nginx->{h3_port}, defined $options{window} ? ('--window', $options{window}) : ());
}

# The ways to disconnect.
sub stop { my ($self, $stream) = @_; $self->tell(stop => $stream) }
sub stop_and_reset { my ($self, $stream) = @_; $self->tell(stop_and_reset => $stream) }
sub stop_and_close { my ($self, $stream) = @_; $self->tell(stop_and_close => $stream) }
sub close { $_[0]->tell('close') }
sub vanish { $_[0]->tell('vanish') }

1;
