# oar-lxc stanza: stands in front of the site's unchanged job resource manager, in the file that
# JOB_RESOURCE_MANAGER_FILE names. `oar-lxc setup server` puts the two together.
#
# OAR's server sends that file to every node of a job, as `perl - init` before the job and
# `perl - clean` after it, followed by a Perl hash that describes the job. The stanza reads the hash,
# looks at the job's types, and gives the same text back on STDIN to the site's part below it.
# For jobs of type lxc, the node is prepared after the site's init, whose cgroups must exist, and
# destroyed before the site's clean, which could not remove cgroups nested in the job's.
{
    package OarLxc;
    use strict;
    use warnings;
    our ( @command, $failed );

    sub run {
        my @argv = ( 'oardodo', '/usr/sbin/oar-lxc-node', @_ );

        # A node without oar-lxc is no broken node: the job is told when it asks for containers.
        return 0 unless -x $argv[1];
        return 0 if system( { $argv[0] } @argv ) == 0;
        return $? == -1 ? 127 : ( $? >> 8 ) || 1;
    }

    my $text = do { local $/; <STDIN> };
    if ( defined($text) ) {
        open( my $copy, '+>', undef ) or die "oar-lxc: no temporary file: $!\n";
        print {$copy} $text;
        seek( $copy, 0, 0 );
        open( STDIN, '<&', $copy ) or die "oar-lxc: cannot give STDIN back: $!\n";

        # Most jobs do not even name the type: they pay for one look at the text.
        if ( $text =~ /['"]?lxc['"]?\s*=>/ ) {
            my $job = eval $text;
            if ( ref($job) eq 'HASH' and exists $job->{types}{lxc} ) {
                my @common = ( '--job', $job->{job_id}, '--user', $job->{user} );
                push @common, '--cgroup', "$job->{cpuset_path}/$job->{name}"
                  if defined $job->{cpuset_path} and $job->{cpuset_path} ne '';
                if ( $ARGV[0] eq 'init' ) {
                    @command = (
                        'prepare', @common, '--node', $ENV{TAKTUK_HOSTNAME},
                        '--nodes', join( ',', sort keys %{ $job->{nodes} } )
                    );
                    my $key = $job->{ssh_keys}{private};
                    push @command, '--job-key', $key->{file_name}
                      if defined $key->{key} and $key->{key} ne '';
                }
                elsif ( $ARGV[0] eq 'clean' ) {
                    $failed = run( 'destroy', @common );

                    # 3: cgroups are left, and the site's clean would wait for them without end.
                    exit 3 if $failed == 3;
                }
            }
        }
    }

    END {
        if ( $? == 0 ) {
            $? = $failed if $failed;
            $? = run(@command) if @command;
        }
    }
}
