[000h 0000   4]                    Signature : "MCFG"    [Memory Mapped Configuration table]
[004h 0004   4]                 Table Length : 0000004C
[008h 0008   1]                     Revision : 01
[009h 0009   1]                     Checksum : 9F
[00Ah 0010   6]                       Oem ID : "NUMAVI"
[010h 0016   8]                 Oem Table ID : "NUMAVSOR"
[018h 0024   4]                 Oem Revision : 00000001
[01Ch 0028   4]              Asl Compiler ID : "RVAT"
[020h 0032   4]        Asl Compiler Revision : 01000000

[024h 0036   8]                     Reserved : 0000000000000000

[02Ch 0044   8]                 Base Address : 00000000E0000000
[034h 0052   2]         Segment Group Number : 0000
[036h 0054   1]             Start Bus Number : 00
[037h 0055   1]               End Bus Number : 00
[038h 0056   4]                     Reserved : 00000000

[03Ch 0060   8]                 Base Address : 0000008000000000
[044h 0068   2]         Segment Group Number : FFFF
[046h 0070   1]             Start Bus Number : 10
[047h 0071   1]               End Bus Number : FF
[048h 0072   4]                     Reserved : 00000000
