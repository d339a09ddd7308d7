#!/bin/sh
exec qemu-system-x86_64 -enable-kvm -cpu host -nographic \
  -machine q35,hmat=on -m 2G,slots=2,maxmem=8G \
  -smp 4,sockets=2 \
  -object memory-backend-ram,id=m0,size=1G,host-nodes=0,policy=bind,prealloc=on \
  -object memory-backend-memfd,id=m1,size=1G,hugetlb=on,hugetlbsize=2M,host-nodes=1-2,policy=preferred \
  -numa node,nodeid=0,memdev=m0 \
  -numa node,nodeid=1,memdev=m1,\
initiator=1 \
  -numa cpu,node-id=0,socket-id=0 -numa cpu,node-id=1,socket-id=1 \
  -numa dist,src=0,dst=1,val=21 \
  -numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-latency,latency=80 \
  -numa hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-bandwidth,bandwidth=10G \
  -numa hmat-cache,node-id=1,size=64M,level=1,associativity=complex,policy=write-through,line=64 \
  -kernel /boot/vmlinuz -initrd /boot/initrd.img -append "console=ttyS0 quiet" \
  -drive file=/var/guest.img
