//! Ranks that are threads of one process, and add in the order of the ranks.

use std::sync::{Arc, Barrier, Mutex};

use graftling::ranks::{Communicator, Ranks};

/// See the [module](self).
pub struct Thread {
    rank: usize,
    meeting: Arc<Meeting>,
}

struct Meeting {
    all: Barrier,
    /// What each rank has brought.
    brought: Vec<Mutex<Vec<u8>>>,
}

impl Thread {
    /// Runs `work` as so many ranks; gives what each makes of it.
    pub fn run<T: Send>(count: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
        let brought = (0..count).map(|_| Mutex::default()).collect();
        let meeting = Arc::new(Meeting { all: Barrier::new(count), brought });
        std::thread::scope(|scope| {
            let start = |rank| {
                let (meeting, work) = (meeting.clone(), &work);
                scope.spawn(move || work(Ranks::of(Arc::new(Self { rank, meeting }))))
            };
            let threads: Vec<_> = (0..count).map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// What all ranks bring, in their order, taken together by `take`.
    fn meet<T: bytemuck::Pod>(&self, values: &mut [T], take: impl Fn(&[Vec<T>]) -> Vec<T>) {
        *self.meeting.brought[self.rank].lock().unwrap() = bytemuck::cast_slice(values).to_vec();
        self.meeting.all.wait();
        let all: Vec<Vec<T>> =
            self.meeting.brought.iter().map(|one| bytemuck::pod_collect_to_vec(&one.lock().unwrap())).collect();
        self.meeting.all.wait();
        values.copy_from_slice(&take(&all));
    }
}

fn added<T: Copy + std::ops::Add<Output = T>>(all: &[Vec<T>]) -> Vec<T> {
    let add = |sum: Vec<T>, one: &Vec<T>| sum.into_iter().zip(one).map(|(a, &b)| a + b).collect();
    all[1..].iter().fold(all[0].clone(), add)
}

impl Communicator for Thread {
    fn rank(&self) -> usize {
        self.rank
    }
    fn count(&self) -> usize {
        self.meeting.brought.len()
    }
    fn local_rank(&self) -> usize {
        self.rank
    }
    fn machine(&self) -> String {
        "here".to_string()
    }
    fn sum(&self, values: &mut [f32]) {
        self.meet(values, added);
    }
    fn sum_few(&self, values: &mut [f64]) {
        self.meet(values, added);
    }
    fn share(&self, bytes: &mut [u8], from: usize) {
        // Only the first has to have it.
        self.meet(bytes, |all| all[from].clone());
    }
    fn end(&self, code: i32) -> ! {
        panic!("ended with {code}")
    }
}
