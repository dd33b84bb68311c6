//! Who is counted: the process that made the call.

use agent_ebpf::abi::{CGROUP_ROOT, CGROUP_V1, CounterKey, Setting};
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_task_btf,
};

use super::{
    layout::setting,
    memory::{Access, Helper, Load, field, kernel},
};

/// Depth of PID namespaces that is searched for the agent's. The kernel's limit is 32 (`MAX_PID_NS_LEVEL`), but
/// nodes in containers in containers have four.
const PID_NAMESPACE_LEVELS: u32 = 8;

/// The counter of the current process for `code`; nothing if the process is not in the agent's PID namespace.
#[inline(always)]
pub fn counter_of_current(code: u16) -> Option<CounterKey> {
    if setting(Setting::TypedTask) == 1 {
        // SAFETY: no arguments.
        let task = unsafe { bpf_get_current_task_btf() } as u64;
        key::<Load>(task, v2_cgroup::<Load>(task).unwrap_or(0), code)
    } else {
        // SAFETY: no arguments.
        let (task, cgroup) = unsafe { (bpf_get_current_task(), bpf_get_current_cgroup_id()) };
        key::<Helper>(task, cgroup, code)
    }
}

/// The counter of the current task's process, which is in that cgroup of v2. Of v1 hierarchies only, if it is in the
/// root of v2: most hosts with v1 have all there, or nothing mounted.
#[inline(always)]
fn key<A: Access>(task: u64, v2: u64, code: u16) -> Option<CounterKey> {
    let mut cgroup = v2;
    if v2 == CGROUP_ROOT
        && setting(Setting::CssSetPids) != Setting::NONE
        && let Some(v1) = v1_cgroup::<A>(task).filter(|id| *id != 0)
    {
        cgroup = v1 | CGROUP_V1;
    }
    let leader: Option<u64> = A::field(task, Setting::TaskGroupLeader);
    Some(CounterKey {
        cgroup,
        start_time: leader
            .and_then(|leader| A::field(leader, Setting::TaskStartBoottime))
            .unwrap_or(0),
        pid: pid(task)?,
        code,
        reserved: 0,
    })
}

/// The id of a task's cgroup in the v2 hierarchy: what `bpf_get_current_cgroup_id` gives.
#[inline(always)]
fn v2_cgroup<A: Access>(task: u64) -> Option<u64> {
    let set: u64 = A::field(task, Setting::TaskCgroups)?;
    cgroup_id::<A>(A::field(set, Setting::CssSetDefault)?)
}

/// The id of a task's cgroup in the hierarchy of `pids`.
#[inline(always)]
fn v1_cgroup<A: Access>(task: u64) -> Option<u64> {
    let set: u64 = A::field(task, Setting::TaskCgroups)?;
    let state: u64 = A::field(set, Setting::CssSetPids)?;
    cgroup_id::<A>(A::field(state, Setting::CssCgroup)?)
}

#[inline(always)]
fn cgroup_id<A: Access>(cgroup: u64) -> Option<u64> {
    A::field(A::field(cgroup, Setting::CgroupNode)?, Setting::NodeId)
}

/// The process id in the agent's PID namespace, or nothing if the process is not in it.
#[inline(always)]
fn pid(task: u64) -> Option<u32> {
    let namespace = setting(Setting::PidNamespace);
    if namespace == 0 {
        return Some((bpf_get_current_pid_tgid() >> 32) as u32);
    }
    let leader: u64 = field(task, Setting::TaskGroupLeader)?;
    let pid: u64 = field(leader, Setting::TaskThreadPid)?;
    let level: u32 = field(pid, Setting::PidLevel)?;
    let mut upid = pid + u64::from(setting(Setting::PidNumbers));
    for at in 0..PID_NAMESPACE_LEVELS {
        if at > level {
            return None;
        }
        let of: u64 = field(upid, Setting::UpidNs)?;
        if field::<u32>(of, Setting::PidNamespaceInum)? == namespace {
            return kernel(upid + u64::from(setting(Setting::UpidNr)));
        }
        upid += u64::from(setting(Setting::UpidSize));
    }
    None
}
