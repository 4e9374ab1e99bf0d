"""An elastic job, as one of its processes sees it: meet, train, and meet again when ranks have come or gone."""

import gc
import os

from horovod_flowers.config.run import RunConfig
from horovod_flowers.launch.job_environment import JobEnvironment
from horovod_flowers.ranks.gloo import is_lost
from horovod_flowers.ranks.horovod_build import import_horovod
from horovod_flowers.ranks.startup import limit_stalls, set_horovod_options, start_tensorflow
from horovod_flowers.ranks.stop_request import StopRequest
from horovod_flowers.runlog.run_hold import RunHold
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.machine import core_of
from horovod_flowers.training.elastic.hosts import HostNews
from horovod_flowers.training.elastic.rendezvous import LeftOut, Rendezvous
from horovod_flowers.training.elastic_commits import HostsChanged


def train_elastic(config: RunConfig, job: JobEnvironment, request: StopRequest, hold: RunHold) -> None:
    """Train with whichever ranks there are, to the end of the run or of this process' part in it.

    Raises UserError and Stopped as training without --elastic does.
    """
    rendezvous = Rendezvous(os.environ)
    limit_stalls(config.stall_seconds)
    set_horovod_options(config.horovod, size=None)
    own = os.sched_getaffinity(0)
    threads = config.threads or max(1, len({core_of(cpu) for cpu in own}) // job.local_size)
    # TensorFlow's threads are made once: before the ranks can talk, and know who shares this machine.
    # Where bf16 has to be told before, 'auto' stays fp32, since ranks to come may lack it.
    gpu = start_tensorflow(job, threads, bf16=config.precision == "bf16")
    hvd = import_horovod(None)

    from horovod_flowers.training.elastic.member import Member

    news = HostNews()
    member = Member(config, job, rendezvous.slot, threads, gpu, news, hold)
    while True:
        news.hosts_changed = False
        try:
            os.environ |= rendezvous.meet(lambda: member.stop_if_requested(request)).variables()
        except LeftOut:
            say(f"{rendezvous.slot} is no longer one of the job's slots: its rank ends")
            return
        except OSError:
            member.save_commit()  # horovodrun has gone, and ends this process soon
            raise
        hvd.init()
        try:
            member.train(request)
            return
        except HostsChanged:
            member.leave("hosts changed")
        except Exception as error:
            if not is_lost(error):
                raise
            member.leave("rank lost")
        finally:
            hvd.shutdown()
        request.forget()
        gc.collect()  # the model, which the error held
