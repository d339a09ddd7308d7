[000h 0000   4]                    Signature : "SRAT"    [System Resource Affinity Table]
[004h 0004   4]                 Table Length : 000000E0
[008h 0008   1]                     Revision : 03
[009h 0009   1]                     Checksum : 27
[00Ah 0010   6]                       Oem ID : "NUMAVI"
[010h 0016   8]                 Oem Table ID : "NUMAVSOR"
[018h 0024   4]                 Oem Revision : 00000001
[01Ch 0028   4]              Asl Compiler ID : "RVAT"
[020h 0032   4]        Asl Compiler Revision : 01000000

[024h 0036   4]               Table Revision : 00000001
[028h 0040   8]                     Reserved : 0000000000000000

[030h 0048   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[031h 0049   1]                       Length : 10

[032h 0050   1]      Proximity Domain Low(8) : 00
[033h 0051   1]                      Apic ID : 00
[034h 0052   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[038h 0056   1]              Local Sapic EID : 00
[039h 0057   3]    Proximity Domain High(24) : 000000
[03Ch 0060   4]                 Clock Domain : 00000000

[040h 0064   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[041h 0065   1]                       Length : 10

[042h 0066   1]      Proximity Domain Low(8) : 00
[043h 0067   1]                      Apic ID : 01
[044h 0068   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[048h 0072   1]              Local Sapic EID : 00
[049h 0073   3]    Proximity Domain High(24) : 000000
[04Ch 0076   4]                 Clock Domain : 00000000

[050h 0080   1]                Subtable Type : 01 [Memory Affinity]
[051h 0081   1]                       Length : 28

[052h 0082   4]             Proximity Domain : 00000000
[056h 0086   2]                    Reserved1 : 0000
[058h 0088   8]                 Base Address : 0000000000000000
[060h 0096   8]               Address Length : 0000000020000000
[068h 0104   4]                    Reserved2 : 00000000
[06Ch 0108   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[070h 0112   8]                    Reserved3 : 0000000000000000

[078h 0120   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[079h 0121   1]                       Length : 10

[07Ah 0122   1]      Proximity Domain Low(8) : 01
[07Bh 0123   1]                      Apic ID : 02
[07Ch 0124   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[080h 0128   1]              Local Sapic EID : 00
[081h 0129   3]    Proximity Domain High(24) : 000000
[084h 0132   4]                 Clock Domain : 00000000

[088h 0136   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[089h 0137   1]                       Length : 10

[08Ah 0138   1]      Proximity Domain Low(8) : 01
[08Bh 0139   1]                      Apic ID : 03
[08Ch 0140   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[090h 0144   1]              Local Sapic EID : 00
[091h 0145   3]    Proximity Domain High(24) : 000000
[094h 0148   4]                 Clock Domain : 00000000

[098h 0152   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[099h 0153   1]                       Length : 10

[09Ah 0154   1]      Proximity Domain Low(8) : 02
[09Bh 0155   1]                      Apic ID : 04
[09Ch 0156   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[0A0h 0160   1]              Local Sapic EID : 00
[0A1h 0161   3]    Proximity Domain High(24) : 000000
[0A4h 0164   4]                 Clock Domain : 00000000

[0A8h 0168   1]                Subtable Type : 00 [Processor Local APIC/SAPIC Affinity]
[0A9h 0169   1]                       Length : 10

[0AAh 0170   1]      Proximity Domain Low(8) : 02
[0ABh 0171   1]                      Apic ID : 05
[0ACh 0172   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
[0B0h 0176   1]              Local Sapic EID : 00
[0B1h 0177   3]    Proximity Domain High(24) : 000000
[0B4h 0180   4]                 Clock Domain : 00000000

[0B8h 0184   1]                Subtable Type : 01 [Memory Affinity]
[0B9h 0185   1]                       Length : 28

[0BAh 0186   4]             Proximity Domain : 00000002
[0BEh 0190   2]                    Reserved1 : 0000
[0C0h 0192   8]                 Base Address : 0000000020000000
[0C8h 0200   8]               Address Length : 0000000020000000
[0D0h 0208   4]                    Reserved2 : 00000000
[0D4h 0212   4]        Flags (decoded below) : 00000001
                                     Enabled : 1
                               Hot Pluggable : 0
                                Non-Volatile : 0
[0D8h 0216   8]                    Reserved3 : 0000000000000000
