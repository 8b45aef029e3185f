# A large body that has been read before is digested in steps, and other events are handled between them. Seen in the debug log.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Environment qw(app nginx_binary);
use IdempotencyTest::Nginx;
use IdempotencyTest::Process qw(temporary_directory);
use IdempotencyTest::Requests qw(@who);

my $nginx_binary = nginx_binary();
plan skip_all => 'nginx has no debug log' if `$nginx_binary -V 2>&1` !~ /--with-debug/;

# an application that responds before it has read the body, and takes a second for it
my $directory = temporary_directory();
my $early = "$directory/early.sock";

my $nginx = IdempotencyTest::Nginx->start(workers => 1, log_level => 'debug', http => "server { listen unix:$early; limit_rate 2k; return 201 " . 'x' x 4000 . '; }', server => <<"END");
        idempotency main;
        client_max_body_size 16m;
        location /first/ { idempotency off; proxy_pass http://app; }
        location \@second { rewrite ^ /second? break; proxy_pass http://app; }
        location \@observed { idempotency main observe; rewrite ^ /second? break; proxy_pass http://app; }
        location \@early { idempotency main observe; proxy_pass http://unix:$early; }
END

# The first location reads the body into a file, and leads to the second one. What the log has of the digest: `R` for each 64 KB
# that are read, `-` for each turn of the worker's loop.
sub steps {
    my ($location, $size) = @_;
    my $response = $nginx->request(path => "/first/$location?header=X-Accel-Redirect:\@$location", key => $location, body => 'x' x ($size * 2**20), @who);
    is $response->status, 201, "$location: the request is executed";
    my $log = $nginx->error_log =~ s{.*?POST /first/$location}{}sr;
    my $steps = join '', map { /read: \d+, [0-9A-F]+, 65536, / ? 'R' : /worker cycle/ ? '-' : () } split /\n/, $log;
    return $steps =~ s/^-+|-+$//gr =~ s/-+/-/gr =~ s/R+/R/gr;
}

is steps('second', 5), 'R-R-R-R-R', 'a step for each MB';
like steps('observed', 5), qr/^R(-R)+$/, 'also where the request does not wait for it';

# nginx closes the file of the body when the response is there: it is not read any more, and nothing is logged.
SKIP: {
    # its patch upstream_pipelining: github.com/openresty/openresty/issues/802
    skip 'OpenResty still sends a request body that it has closed, and then fails', 2 if `$nginx_binary -v 2>&1` =~ /openresty/;
    cmp_ok steps('early', 15) =~ tr/R//, '<', 15, 'the application responds before the last step';
}

$nginx->stop;
done_testing;
