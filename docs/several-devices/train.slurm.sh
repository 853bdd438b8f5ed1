#!/bin/bash
# One training run on several GPUs, for Slurm. What stands behind the script's name goes to `graftling train`:
#
#     sbatch --nodes=2 --ntasks-per-node=4 docs/several-devices/train.slurm.sh --model MODEL --data train.jsonl --out /shared/run-1
#
# Two minutes before the time limit the run saves a checkpoint and stops; submit the same again, with as many ranks as there are then, and it
# goes on from there. GRAFTLING names the program, built with --features mpi; model, data and --out are on a file system of all nodes.
#SBATCH --job-name=graftling
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --output=graftling-%j.log
#SBATCH --signal=B:USR1@120
# On a cluster with GPUs take one # away, with as many as tasks:
##SBATCH --gpus-per-node=2

# Open MPI takes nodes and ranks from Slurm, and hands SIGUSR1 to all ranks.
mpirun "${GRAFTLING:-graftling}" train "$@" --resume &
ranks=$!
trap 'kill -USR1 "$ranks"' USR1
# A signal ends the first wait early.
wait "$ranks"
code=$?
while kill -0 "$ranks" 2>/dev/null; do
    wait "$ranks"
    code=$?
done
exit "$code"
